"""Several data sets, each in its own format, for one training run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from matryoshka2d.data.lines import without_compression
from matryoshka2d.data.readers import read_rows
from matryoshka2d.data.row_formats import Format, format_of
from matryoshka2d.data.rows import is_hub_name
from matryoshka2d.data.shares import check_names
from matryoshka2d.data.streams import Stream, open_stream
from matryoshka2d.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

Rows = TypeVar("Rows", "Dataset", Stream)


@dataclass(frozen=True)
class Mixture(Generic[Rows]):
    """Data sets and their formats, both by name and in the order in which they were given.

    Parameters
    ----------
    datasets
        Name → rows: what `SentenceTransformerTrainer` takes as ``train_dataset``; or streams of them.
    formats
        Name → format, from which a loss is chosen for each name.
    """

    datasets: dict[str, Rows]
    formats: dict[str, Format]

    @property
    def rows(self) -> dict[str, int | None]:
        """Name → how many rows; None for a stream that does not say."""
        return {
            name: rows.rows if isinstance(rows, Stream) else len(rows) for name, rows in self.datasets.items()
        }


def read_mixture(
    sources: Iterable[str | os.PathLike[str]],
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    split: str | None = "train",
    score_range: tuple[float, float] | None = None,
) -> Mixture[Dataset]:
    """Read one or more data sets; each keeps its own format.

    Parameters
    ----------
    sources
        Files or hub data sets, each as in `read_rows`. Each is named after its file (``nli`` for
        ``rows/nli.jsonl.gz``); a name that comes again is numbered: ``nli_2``.
    columns, limit, split, score_range
        As in `read_rows`, for each data set on its own. Give `columns` and `score_range` only where
        they hold for all of them.

    Raises
    ------
    UserError
        If no source is given, or one cannot be read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> pairs, scored = (pathlib.Path(folder.name, name) for name in ("qa.csv", "sts.csv"))
    >>> _ = pairs.write_text("query,answer\\nwho?,me\\n")
    >>> _ = scored.write_text("sentence1,sentence2,score\\na dog,a cat,0.4\\n")
    >>> mixture = read_mixture([pairs, scored])
    >>> {name: format.name for name, format in mixture.formats.items()}
    {'qa': 'positive pairs', 'sts': 'scored pairs'}
    >>> folder.cleanup()
    """
    return _mixture(sources, lambda source: read_rows(source, columns, limit, split, score_range))


def open_mixture(
    sources: Iterable[str | os.PathLike[str]],
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    split: str | None = "train",
    score_range: tuple[float, float] | None = None,
    rows: Mapping[str, int] | None = None,
) -> Mixture[Stream]:
    """Open one or more streams; each keeps its own format.

    Parameters
    ----------
    sources
        As in `open_stream`. A folder gives its name to its shards, a pattern what is left of it without
        its signs.
    columns, limit, split, score_range
        As in `read_mixture`.
    rows
        Name → how many rows, for streams that do not say.

    Raises
    ------
    UserError
        If no source is given, one cannot be read, or rows are said of something else.
    """
    mixture = _mixture(sources, lambda source: open_stream(source, columns, limit, split, score_range))
    said = rows or {}
    check_names(said, list(mixture.datasets), "rows")
    streams = {
        name: replace(stream, rows=min(said[name], limit or said[name])) if name in said else stream
        for name, stream in mixture.datasets.items()
    }
    return Mixture(streams, mixture.formats)


def _mixture(
    sources: Iterable[str | os.PathLike[str]], read: Callable[[str | os.PathLike[str]], Rows]
) -> Mixture[Rows]:
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    datasets: dict[str, Rows] = {}
    for source in sources:
        name = _unused_name(_name_of(source), datasets)
        datasets[name] = read(source)
    if not datasets:
        raise UserError("no training data: name at least one file or hub data set")
    return Mixture(datasets, {name: format_of(rows.column_names) for name, rows in datasets.items()})


def _name_of(source: str | os.PathLike[str]) -> str:
    path = Path(source)
    whole = is_hub_name(source) or path.is_dir()
    stem = path.name if whole else without_compression(path).rpartition(".")[0]
    # A pattern such as nli/*.parquet says nothing but its folder.
    found = (re.sub(r"\W+", "_", part).strip("_") for part in (stem, path.parent.name))
    return next(filter(None, found), "rows")


def _unused_name(name: str, used: Iterable[str]) -> str:
    taken, candidate, number = set(used), name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate
