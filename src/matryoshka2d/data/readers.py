"""One function that reads training data from files of any form or from the hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from matryoshka2d.data.checks import numbered
from matryoshka2d.data.row_formats import GROUP, SCORE
from matryoshka2d.data.streams import no_rows, open_stream

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

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
        A file — JSON (``.jsonl``, ``.ndjson``, ``.json``: an object a line, or one array of objects),
        ``.csv`` and ``.tsv`` with a header, ``.parquet``, ``.arrow``, or ``.txt`` with one text a line —,
        a folder of files of one kind, a folder that ``datasets`` saved, a pattern (``rows/nli-*.csv``), or a
        data set of the hub, ``owner/name`` or ``owner/name:config``. Forms of lines may end in ``.gz`` or
        ``.zst``. A ``.tsv`` has no quoting, blank lines are skipped, and the encoding is UTF-8, or UTF-16
        with its mark. Rows with an empty text are left out with a note. A column ``title`` is put before the
        one called ``text``, as in a corpus of BEIR; name the text to have it alone.
    columns
        Canonical name → name in the file; see `recognize`. Default: None, the usual names are looked
        for. Give it when the columns have unusual names.
    limit
        Keep the first so many rows (of the split). Default: None, all. Give it to try something quickly.
    split
        Default: ``"train"``. Which rows to read from a hub data set, from a folder whose files or folders
        are named after splits, or from a file with a column named ``split``; a file without one is read
        whole. ``dev`` and ``validation`` are the same. None or ``"all"`` reads every row.
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
        If the source cannot be read, its columns are not recognized, or a row is wrong; the message
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
    stream = open_stream(source, columns, limit, split, score_range, whole=True)
    content: dict[str, list[Any]] = {name: [] for name in stream.column_names}
    for some in chain.from_iterable(map(stream.columns_of, stream.shards)):
        for name, values in some.items():
            content[name] += values
        if limit is not None and len(content[stream.column_names[0]]) >= limit:
            break
    content = {name: values[:limit] for name, values in content.items()}
    if GROUP in content:
        content[GROUP] = numbered(content[GROUP])
    rows = len(content[stream.column_names[0]])
    if not rows:
        raise no_rows(stream)
    description = f"{stream.source}: {rows} {stream.layout.format.name}{_note(stream.score_range)}"
    logger.info(description)
    return _dataset(content, description)


def _note(score_range: tuple[float, float] | None) -> str:
    low, high = score_range or (0, 1)
    if (low, high) == (0, 1):
        return ""
    return f"; scores divided by {high:g}" if low == 0 else f"; scores mapped from {low:g}–{high:g} to 0–1"


def _dataset(content: dict[str, list[Any]], description: str) -> Dataset:
    import datasets

    features = datasets.Features({name: datasets.Value(_KINDS.get(name, "string")) for name in content})
    # The description travels with the data set through select and shuffle.
    info = datasets.DatasetInfo(description=description, features=features)
    return datasets.Dataset.from_dict(content, info=info)
