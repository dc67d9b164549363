"""One function that reads training data from a file of any form or from the hub."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.data.checks import (
    check_range,
    checked_groups,
    checked_numbers,
    checked_texts,
    guessed_range,
)
from matryoshka2d.data.row_formats import GROUP, SCORE, Layout, recognise
from matryoshka2d.data.tables import Table, extension_of, open_table
from matryoshka2d.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
SPLIT_COLUMN = "split"
EVERY_SPLIT = "all"
_KINDS = {SCORE: "float64", GROUP: "int64"}


def read_rows(
    source: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    split: str | None = "train",
    score_range: tuple[float, float] | None = None,
) -> Dataset:
    """Read training data, check every row, and return it with canonical column names.

    Parameters
    ----------
    source
        A file — JSON lines (``.jsonl``, ``.ndjson``, ``.json``), ``.csv`` and ``.tsv`` with a header,
        ``.parquet``, or ``.txt`` with one text a line — or a data set of the hub, ``owner/name`` or
        ``owner/name:config``. Text forms may end in ``.gz``. A ``.tsv`` has no quoting, blank lines
        are skipped, and the encoding is UTF-8.
    columns
        Canonical name → name in the file; see `recognise`. Default: None, the usual names are looked
        for. Give it when the columns have unusual names.
    limit
        Keep the first so many rows (of the split). Default: None, all. Give it to try something quickly.
    split
        Default: ``"train"``. Which rows to read from a hub data set, or from a file with a column
        named ``split``; a file without one is read whole. None or ``"all"`` reads every row.
    score_range
        The lowest and highest possible score; scores are mapped to 0 to 1. Default: None: scores
        within 0 to 1 stay as they are, and scores within 0 to 5 are divided by 5. The guess sees
        every row of the split, whatever the limit, so that a limit does not change the scale. Give it
        for other scales, as in ``(1, 5)``.

    Returns
    -------
    Dataset
        The columns of its format in canonical order (texts are strings, ``score`` is a float), then
        ``group`` if the data has one: whole numbers in order of appearance, -1 for a row without a group
        (a missing or blank one). ``dataset.info.description`` says what was read and how scores
        were scaled.

    Raises
    ------
    UserError
        If the source cannot be read, its columns are not recognised, or a row is wrong; the message
        names the file and the line.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "pairs.tsv")
    >>> _ = path.write_text("score\\ttext1\\ttext2\\n4\\tA dog runs.\\tA dog is running.\\n")
    >>> rows = read_rows(path)
    >>> rows[0]
    {'sentence1': 'A dog runs.', 'sentence2': 'A dog is running.', 'score': 0.8}
    >>> rows.info.description.split(": ")[1]
    '1 scored pairs; scores divided by 5'
    >>> folder.cleanup()
    """
    check_limit(limit)
    check_score_range(score_range)
    table, in_split = _open(source, split)
    layout = recognise(table.names, columns, source=table.source)
    kept = in_split[:limit]
    content: dict[str, list[Any]] = {
        name: checked_texts(table, column, kept) for name, column in layout.columns if name != SCORE
    }
    note = ""
    if layout.format.scored:
        content[SCORE], note = _scaled_scores(table, layout, in_split, limit, score_range)
    if layout.group is not None:
        content[GROUP] = checked_groups(table, layout.group, kept)
    description = f"{table.source}: {len(kept)} {layout.format.name}{note}"
    logger.info(description)
    return _dataset(content, description)


def is_hub_name(source: str | os.PathLike[str]) -> bool:
    """Whether a source is the name of a hub data set rather than a file that exists or could.

    >>> is_hub_name("sentence-transformers/all-nli:triplet"), is_hub_name("rows/pairs.jsonl")
    (True, False)
    """
    path = Path(source)
    name = isinstance(source, str) and _HUB_NAME.fullmatch(source) is not None
    # "data/pairs" beside a folder "data" is far more likely a mistyped file than a user named "data".
    return name and not path.exists() and not path.parent.is_dir() and extension_of(path) is None


def _open(source: str | os.PathLike[str], split: str | None) -> tuple[Table, Sequence[int]]:
    if is_hub_name(source):
        table = _open_hub(str(source), split)
        return table, range(len(table))
    table = open_table(Path(source))
    return table, _rows_of_split(table, split)


def _open_hub(source: str, split: str | None) -> Table:
    content = load_hub(source, split)
    if not len(content):
        raise UserError(f"{source} has no rows in split '{split}'")

    def fetch(name: str, chosen: Sequence[int]) -> list[Any]:
        values: list[Any] = content.select_columns([name]).select(chosen)[name][:]
        return values

    return Table(source, tuple(content.column_names), fetch, range(1, len(content) + 1), unit="row")


def load_hub(source: str, split: str | None, **choices: Any) -> Any:
    """Load a data set of the hub, ``owner/name`` or ``owner/name:config``.

    Parameters
    ----------
    source, split
        As in `read_rows`.
    **choices
        What else `datasets.load_dataset` takes, as ``streaming=True``.

    Raises
    ------
    UserError
        If it cannot be loaded.
    """
    import datasets

    match = _HUB_NAME.fullmatch(source)
    assert match is not None
    try:
        return datasets.load_dataset(match[1], match[2], split=split or EVERY_SPLIT, **choices)
    except (
        Exception
    ) as error:  # the hub's clients raise kinds of several libraries, all of them the user's to mend
        raise UserError(
            f"cannot load '{source}', which is no file here, from the hub: {first_line_of(error)}; "
            f"expected a file or owner/name or owner/name:config, and split '{split}'"
        ) from error


def first_line_of(error: Exception) -> str:
    """Return the first line of what an error of another library says, or its name."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _rows_of_split(table: Table, split: str | None) -> Sequence[int]:
    every = range(len(table))
    if split in (None, EVERY_SPLIT) or SPLIT_COLUMN not in table.names:
        return every
    splits = table.fetch(SPLIT_COLUMN, every)
    rows = [row for row, name in zip(every, splits, strict=True) if name == split]
    if not rows:
        found = ", ".join(f"'{name}'" for name in dict.fromkeys(map(str, splits)))
        raise UserError(f"{table.source} has no rows of split '{split}': found {found}; choose one, or 'all'")
    return rows


def _scaled_scores(
    table: Table,
    layout: Layout,
    in_split: Sequence[int],
    limit: int | None,
    score_range: tuple[float, float] | None,
) -> tuple[list[float], str]:
    column = dict(layout.columns)[SCORE]
    rows = in_split if score_range is None else in_split[:limit]
    scores = checked_numbers(table, column, rows)
    if score_range is None:
        low, high = guessed_range(table, column, rows, scores)
    else:
        low, high = score_range
        check_range(table, column, rows, scores, score_range)
    if (low, high) == (0, 1):
        return scores[:limit], ""
    note = f"; scores divided by {high:g}" if low == 0 else f"; scores mapped from {low:g}–{high:g} to 0–1"
    return [(score - low) / (high - low) for score in scores[:limit]], note


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


def _dataset(content: dict[str, list[Any]], description: str) -> Dataset:
    import datasets

    features = datasets.Features({name: datasets.Value(_KINDS.get(name, "string")) for name in content})
    # The description travels with the data set through select and shuffle.
    info = datasets.DatasetInfo(description=description, features=features)
    return datasets.Dataset.from_dict(content, info=info)
