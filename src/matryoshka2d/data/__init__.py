"""Training data, from a file to the batches of a step.

`formats` knows the four forms of training data (scored pairs, positive pairs, triplets, texts) and
recognizes them by the names of their columns. `read_rows` reads a file of any kind, or a data set of the
hub, checks every row, and returns a `datasets.Dataset` in canonical columns; `read_mixture` does so for
several. `open_stream` and `open_mixture` do the same for data that does not fit in memory: rows are read
and checked when they are needed. During training, `DistinctRowsBatchSampler` and `StreamBatchSampler` keep
rows that share a text or a group out of one batch, and `GroupDroppingCollator` keeps the group away from
the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matryoshka2d.lazy import lazy_names

if TYPE_CHECKING:
    from matryoshka2d.data.batch_sampler import DistinctRowsBatchSampler as DistinctRowsBatchSampler
    from matryoshka2d.data.batch_sampler import GroupDroppingCollator as GroupDroppingCollator
    from matryoshka2d.data.mixture import Mixture as Mixture
    from matryoshka2d.data.mixture import open_mixture as open_mixture
    from matryoshka2d.data.mixture import read_mixture as read_mixture
    from matryoshka2d.data.readers import read_rows as read_rows
    from matryoshka2d.data.row_formats import FORMATS as FORMATS
    from matryoshka2d.data.row_formats import GROUP as GROUP
    from matryoshka2d.data.row_formats import NO_GROUP as NO_GROUP
    from matryoshka2d.data.row_formats import POSITIVE_PAIRS as POSITIVE_PAIRS
    from matryoshka2d.data.row_formats import SCORE as SCORE
    from matryoshka2d.data.row_formats import SCORED_PAIRS as SCORED_PAIRS
    from matryoshka2d.data.row_formats import TEXTS as TEXTS
    from matryoshka2d.data.row_formats import TRIPLETS as TRIPLETS
    from matryoshka2d.data.row_formats import Format as Format
    from matryoshka2d.data.row_formats import format_of as format_of
    from matryoshka2d.data.row_formats import recognize as recognize
    from matryoshka2d.data.row_formats import text_columns as text_columns
    from matryoshka2d.data.rows import is_hub_name as is_hub_name
    from matryoshka2d.data.stream_batch_sampler import StreamBatchSampler as StreamBatchSampler
    from matryoshka2d.data.streams import Stream as Stream
    from matryoshka2d.data.streams import open_stream as open_stream
else:
    # Reading needs no torch.
    __getattr__, __all__ = lazy_names(__name__)
