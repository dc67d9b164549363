"""Streams: training data that is read, checked and forgotten, a few rows at a time, again and again."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from matryoshka2d.data.checks import (
    check_range,
    checked_groups,
    checked_numbers,
    checked_texts,
    guessed_range,
)
from matryoshka2d.data.row_formats import GROUP, SCORE, Layout, recognize
from matryoshka2d.data.rows import (
    EVERY_SPLIT,
    SPLIT_COLUMN,
    Row,
    Shard,
    Table,
    is_hub_name,
    note_once,
    open_shards,
    with_title,
)
from matryoshka2d.errors import UserError


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
        for columns in self.columns_of(shard):
            rows = zip(*columns.values(), strict=True)
            yield from (dict(zip(columns, values, strict=True)) for values in rows)

    def columns_of(self, shard: Shard) -> Iterator[dict[str, list[Any]]]:
        """Yield the checked columns of a part, some rows at a time; rows with an empty text are left out.

        Raises
        ------
        UserError
            If a row is wrong; the message names the file and the line.
        """
        empty, kept = list[str](), 0
        for table in shard.tables(
            _needed(self.layout, self.split is not None and SPLIT_COLUMN in shard.names)
        ):
            columns = self._checked(table, empty)
            kept += len(next(iter(columns.values())))
            yield columns
        # Where none is left, that is said instead.
        if empty and kept:
            note_once(f"{shard.source}: rows without a text are left out: {len(empty)}, first {empty[0]}")

    def _checked(self, table: Table, empty: list[str]) -> dict[str, list[Any]]:
        chosen = table.of_split(self.split)
        texts = {
            name: checked_texts(table, column, chosen)
            for name, column in self.layout.columns
            if name != SCORE and name in self.column_names
        }
        if self.layout.title is not None:
            titles = table.column(self.layout.title, chosen)
            texts = {name: list(map(with_title, titles, column)) for name, column in texts.items()}
        whole = [all(map(str.strip, row)) for row in zip(*texts.values(), strict=True)]
        empty += [table.places[row] for row, kept in zip(chosen, whole, strict=True) if not kept]
        content: dict[str, list[Any]] = {name: _kept(column, whole) for name, column in texts.items()}
        if not all(whole):
            chosen = _kept(chosen, whole)
        if SCORE in self.column_names:
            content[SCORE] = self._scores(table, dict(self.layout.columns)[SCORE], chosen)
        if self.layout.group is not None and GROUP in self.column_names:
            content[GROUP] = checked_groups(table, self.layout.group, chosen)
        return {name: content[name] for name in self.column_names}

    def _scores(self, table: Table, column: str, chosen: Sequence[int]) -> list[float]:
        assert self.score_range is not None
        scores = checked_numbers(table, column, chosen)
        hint = "mend the row or give another score_range"
        if self.score_range_is_guessed:
            hint = "the first rows have such scores; name the range if it is another, as --score-range 0,5"
        check_range(column, zip(map(table.place, chosen), scores, strict=True), self.score_range, hint=hint)
        low, high = self.score_range
        return [(score - low) / (high - low) for score in scores]


def open_stream(
    source: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    split: str | None = "train",
    score_range: tuple[float, float] | None = None,
    *,
    whole: bool = False,
) -> Stream:
    """Open training data without reading more than the first rows of every shard.

    Parameters
    ----------
    source
        What `read_rows` takes. The columns of all shards are those of the first.
    columns, limit, split, score_range
        As in `read_rows`; without `score_range`, the scale of scores is guessed from the first rows.
    whole
        Whether to read everything at once: then columns and scales are those of all rows.

    Raises
    ------
    UserError
        If a shard cannot be read or lacks a column, the columns are not recognized, or there are no rows.

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
    shards, rows = open_shards(source, split, hub=True, whole=whole)
    layout = recognize(shards[0].names, columns, source=shards[0].source)
    for shard in shards[1:]:
        _check_columns(shard, layout, shards[0].source)
    # Of the hub, the split was chosen already.
    by_column = any(SPLIT_COLUMN in shard.names for shard in shards) and not is_hub_name(source)
    splits = split not in (None, EVERY_SPLIT) and by_column
    names = [name for name, _ in layout.columns] + ([GROUP] if layout.group else [])
    stream = Stream(
        source=source,
        shards=tuple(shards),
        layout=layout,
        rows=None if rows is None or splits else min(rows, limit or rows),
        column_names=tuple(names),
        score_range=score_range,
        split=split if splits else None,
        limit=limit,
    )
    if not layout.format.scored or score_range is not None:
        return stream
    return replace(stream, score_range=_guessed(stream, whole), score_range_is_guessed=not whole)


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
    return [*columns, *filter(None, [layout.group, layout.title]), *([SPLIT_COLUMN] if split else [])]


def _guessed(stream: Stream, whole: bool) -> tuple[float, float]:
    """Guess the scale of the scores from all rows, or from the first that are trained on."""
    column = dict(stream.layout.columns)[SCORE]
    scored: list[tuple[str, float]] = []
    for shard in stream.shards:
        for table in shard.tables(_needed(stream.layout, stream.split is not None)):
            chosen = table.of_split(stream.split)
            numbers = checked_numbers(table, column, chosen)
            scored += zip(map(table.place, chosen), numbers, strict=True)
            if scored and not whole:
                return guessed_range(column, scored)
    if not scored:
        raise no_rows(stream)
    return guessed_range(column, scored)


def no_rows(stream: Stream) -> UserError:
    """Return what is said of a stream without rows: of that split, or at all."""
    if stream.split is None:
        return UserError(f"{stream.source} has no rows whose texts are all there: expected at least one")
    tables = (table for shard in stream.shards for table in shard.tables([SPLIT_COLUMN]))
    found = dict.fromkeys(str(row.get(SPLIT_COLUMN)) for table in tables for row in table.rows)
    listed = ", ".join(f"'{name}'" for name in list(found)[:12])
    return UserError(
        f"{stream.source} has no rows of split '{stream.split}': found {listed}; choose one, or 'all'"
    )


def _kept(values: Sequence[Any], whole: Sequence[bool]) -> list[Any]:
    return [value for value, kept in zip(values, whole, strict=True) if kept]


def check_limit(limit: int | None) -> None:
    """Raise a `UserError` unless a limit keeps some rows."""
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit} keeps no rows: expected 1 or more, or none")


def check_score_range(score_range: tuple[float, float] | None) -> None:
    """Raise a `UserError` unless a range of scores, if there is one, goes upwards."""
    if score_range is None:
        return
    low, high = score_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(
            f"score_range {low:g} to {high:g} is no range: expected lowest, highest, as in (0, 5)"
        )
