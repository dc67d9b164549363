"""Streams: training data that is read, checked and forgotten, a few rows at a time, again and again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from matryoshka2d.data.checks import (
    check_range,
    checked_group_names,
    checked_numbers,
    checked_texts,
    guessed_range,
)
from matryoshka2d.data.readers import EVERY_SPLIT, SPLIT_COLUMN, check_limit, check_score_range
from matryoshka2d.data.row_formats import GROUP, NO_GROUP, SCORE, Layout, recognise
from matryoshka2d.data.shards import Shard, open_shards
from matryoshka2d.data.tables import Table
from matryoshka2d.errors import UserError

Row = dict[str, Any]
"""Canonical column → its value in one row."""


@dataclass(frozen=True)
class Stream:
    """A data set whose rows are read when they are needed; make one with `open_stream`.

    Parameters
    ----------
    source
        What messages call it.
    shards
        Its parts.
    layout
        Its format and where its columns are.
    rows
        How many rows a pass has, or None where only reading it would tell.
    column_names
        The canonical columns that its rows have.
    score_range
        The lowest and highest possible score, if it has scores.
    score_range_is_guessed
        Whether the first rows said so.
    split
        The split whose rows are read, or None for all.
    limit
        The most rows of a pass, or None.
    """

    source: str
    shards: tuple[Shard, ...]
    layout: Layout
    rows: int | None
    column_names: tuple[str, ...]
    score_range: tuple[float, float] | None = None
    score_range_is_guessed: bool = False
    split: str | None = None
    limit: int | None = None

    def select_columns(self, names: Sequence[str]) -> Stream:
        """Return the stream with some of its columns only."""
        return replace(self, column_names=tuple(names))

    def one_pass(self, chance: np.random.Generator) -> Iterator[Row]:
        """Yield every row once, the shards in random order; with a limit, the first rows as they stand.

        Raises
        ------
        UserError
            If a row or a shard is wrong; the message names the file and the line.
        """
        order = range(len(self.shards)) if self.limit else chance.permutation(len(self.shards))
        rows = (row for place in order for row in self._rows_of(self.shards[place]))
        return islice(rows, self.limit)

    def _rows_of(self, shard: Shard) -> Iterator[Row]:
        needed = _needed(self.layout, self.split is not None and SPLIT_COLUMN in shard.names)
        for table in shard.tables(needed):
            yield from self._checked(table)

    def _checked(self, table: Table) -> Iterator[Row]:
        chosen = _in_split(table, self.split)
        content: dict[str, Sequence[Any]] = {
            name: self._scores(table, column, chosen)
            if name == SCORE
            else checked_texts(table, column, chosen)
            for name, column in self.layout.columns
            if name in self.column_names
        }
        if self.layout.group is not None and GROUP in self.column_names:
            groups = checked_group_names(table, self.layout.group, chosen)
            content[GROUP] = [NO_GROUP if group is None else group for group in groups]
        return (dict(zip(content, values, strict=True)) for values in zip(*content.values(), strict=True))

    def _scores(self, table: Table, column: str, chosen: Sequence[int]) -> list[float]:
        assert self.score_range is not None
        scores = checked_numbers(table, column, chosen)
        hint = "mend the row or give another score range"
        if self.score_range_is_guessed:
            hint = "the first rows have such scores; name the range if it is another, as --score-range 0,5"
        check_range(table, column, chosen, scores, self.score_range, hint=hint)
        low, high = self.score_range
        return [(score - low) / (high - low) for score in scores]


def open_stream(
    source: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    split: str | None = "train",
    score_range: tuple[float, float] | None = None,
) -> Stream:
    """Open training data without reading more than the first rows of every shard.

    Parameters
    ----------
    source
        What `read_rows` takes, and also a folder of shards or a pattern, as ``rows/nli-*.parquet``. The
        columns of all shards are those of the first.
    columns, limit, split, score_range
        As in `read_rows`; without `score_range`, the scale of scores is guessed from the first rows.

    Raises
    ------
    UserError
        If a shard cannot be read or lacks a column, the columns are not recognised, or there are no rows.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> for part in (1, 2):
    ...     _ = pathlib.Path(folder.name, f"qa-{part}.csv").write_text(f"query,answer\\nwho {part}?,me\\n")
    >>> stream = open_stream(f"{folder.name}/qa-*.csv")
    >>> stream.layout.format.name, sorted(row["anchor"] for row in stream.one_pass(np.random.default_rng(0)))
    ('positive pairs', ['who 1?', 'who 2?'])
    >>> folder.cleanup()
    """
    check_limit(limit)
    check_score_range(score_range)
    source = os.fspath(source)
    shards, rows = open_shards(source, split)
    filled = [shard for shard in shards if shard.rows != 0]
    if not filled:
        raise UserError(f"{source} has no rows: expected at least one after the names of the columns")
    layout = recognise(filled[0].names, columns, source=filled[0].source)
    for shard in filled[1:]:
        _check_columns(shard, layout, filled[0].source)
    splits = split not in (None, EVERY_SPLIT) and any(SPLIT_COLUMN in shard.names for shard in filled)
    names = [name for name, _ in layout.columns] + ([GROUP] if layout.group else [])
    stream = Stream(
        source=source,
        shards=tuple(filled),
        layout=layout,
        rows=None if rows is None or splits else min(rows, limit or rows),
        column_names=tuple(names),
        score_range=score_range,
        split=split if splits else None,
        limit=limit,
    )
    if not layout.format.scored or score_range is not None:
        return stream
    return replace(stream, score_range=_first_range(stream), score_range_is_guessed=True)


def _check_columns(shard: Shard, layout: Layout, first: str) -> None:
    missing = [column for column in _needed(layout, False) if column not in shard.names]
    if missing:
        found = ", ".join(f"'{name}'" for name in shard.names)
        raise UserError(
            f"{shard.source}: there is no column '{missing[0]}', which {first} has: found {found}; "
            f"every shard needs the same columns"
        )


def _needed(layout: Layout, split: bool) -> list[str]:
    """Return the names of the columns in the files that are read at all."""
    columns = [column for _, column in layout.columns]
    return [*columns, *([layout.group] if layout.group else []), *([SPLIT_COLUMN] if split else [])]


def _in_split(table: Table, split: str | None) -> Sequence[int]:
    every = range(len(table))
    if split is None or SPLIT_COLUMN not in table.names:
        return every
    return [row for row, name in zip(every, table.fetch(SPLIT_COLUMN, every), strict=True) if name == split]


def _first_range(stream: Stream) -> tuple[float, float]:
    """Guess the scale of the scores from the first rows that are trained on."""
    column = dict(stream.layout.columns)[SCORE]
    for shard in stream.shards:
        for table in shard.tables(_needed(stream.layout, stream.split is not None)):
            chosen = _in_split(table, stream.split)
            if chosen:
                return guessed_range(table, column, chosen, checked_numbers(table, column, chosen))
    raise UserError(f"{stream.source} has no rows of split '{stream.split}'")
