"""Training data, from a file to the batches of a step.

`formats` knows the four forms of training data (scored pairs, positive pairs, triplets, texts) and
recognizes them by the names of their columns. `read_rows` reads a file of any kind, or a data set of the
hub, checks every row, and returns a `datasets.Dataset` in canonical columns; `read_mixture` does so for
several. `open_stream` and `open_mixture` do the same for data that does not fit in memory: rows are read
and checked when they are needed. During training, `DistinctRowsBatchSampler` and `StreamBatchSampler` keep
rows that share a text or a group out of one batch, and `GroupDroppingCollator` keeps the group away from
the model.

The names are imported when they are first used: reading needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matryoshka2d.data.batch_sampler import DistinctRowsBatchSampler, GroupDroppingCollator
    from matryoshka2d.data.mixture import Mixture, open_mixture, read_mixture
    from matryoshka2d.data.readers import read_rows
    from matryoshka2d.data.row_formats import (
        FORMATS,
        GROUP,
        NO_GROUP,
        POSITIVE_PAIRS,
        SCORE,
        SCORED_PAIRS,
        TEXTS,
        TRIPLETS,
        Format,
        format_of,
        recognize,
        text_columns,
    )
    from matryoshka2d.data.rows import is_hub_name
    from matryoshka2d.data.stream_batch_sampler import StreamBatchSampler
    from matryoshka2d.data.streams import Stream, open_stream

_HOMES = {
    "batch_sampler": ("DistinctRowsBatchSampler", "GroupDroppingCollator"),
    "row_formats": (
        *("FORMATS", "GROUP", "NO_GROUP", "POSITIVE_PAIRS", "SCORE", "SCORED_PAIRS", "TEXTS", "TRIPLETS"),
        *("Format", "format_of", "recognize", "text_columns"),
    ),
    "mixture": ("Mixture", "open_mixture", "read_mixture"),
    "readers": ("read_rows",),
    "rows": ("is_hub_name",),
    "stream_batch_sampler": ("StreamBatchSampler",),
    "streams": ("Stream", "open_stream"),
}

__all__ = [
    "FORMATS",
    "GROUP",
    "NO_GROUP",
    "POSITIVE_PAIRS",
    "SCORE",
    "SCORED_PAIRS",
    "TEXTS",
    "TRIPLETS",
    "DistinctRowsBatchSampler",
    "Format",
    "GroupDroppingCollator",
    "Mixture",
    "Stream",
    "StreamBatchSampler",
    "format_of",
    "is_hub_name",
    "open_mixture",
    "open_stream",
    "read_mixture",
    "read_rows",
    "recognize",
    "text_columns",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
