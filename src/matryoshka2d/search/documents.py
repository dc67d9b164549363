"""Documents out of a file or a BEIR folder: an id, a text, and the other columns as fields."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from matryoshka2d.data.rows import read_tables, title_column, with_title
from matryoshka2d.errors import UserError
from matryoshka2d.inference.encoding import text_column

_IDS = ("_id", "id", "doc_id", "document_id")


@dataclass(frozen=True)
class Document:
    """What is found.

    Parameters
    ----------
    id
        Its name, unique in an index.
    text
        What is embedded.
    fields
        Name → any value of JSON: kept, given back, and filtered by.
    """

    id: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A short hash of text and fields: equal where nothing changed."""
        content = json.dumps([self.text, self.fields], sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Corpus:
    """A file of documents that was looked over once.

    Parameters
    ----------
    path
        The file or the BEIR folder.
    count
        How many documents there are.
    column
        The column of texts.
    id_column
        The column of ids; None where there is none and rows are numbered from 0.
    """

    path: Path
    count: int
    column: str
    id_column: str | None

    def documents(self) -> Iterator[Document]:
        """Yield the documents in the order of the file."""
        for number, (_, row) in enumerate(_rows(self.path)):
            yield _document(row, number, self.column, self.id_column)


def documents(path: str | Path, column: str | None = None) -> Corpus:
    """Look over a file of documents: every row has a text, and no id comes twice.

    Parameters
    ----------
    path
        ``.txt``, ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``, or a BEIR folder with ``corpus.jsonl``. A
        title is put before the text. Ids stand in ``_id``, ``id``, ``doc_id`` or ``document_id``; rows
        without are numbered from 0. All other columns are fields.
    column
        The column of texts; by default ``text`` or another usual name, or the only one.

    Raises
    ------
    UserError
        If the file, a text or an id is not usable.
    """
    path = _corpus_file(Path(path))
    name, id_column = "", None
    seen: set[str] = set()
    count = 0
    for place, row in _rows(path):
        if not count:
            name = text_column(row, column, str(path))
            id_column = next((known for known in _IDS if known in row and known != name), None)
        _check_row(row, place, name, id_column)
        if id_column is not None:
            key = str(row[id_column])
            if key in seen:
                raise UserError(f"{place}: the id '{key}' is there twice: ids must be unique")
            seen.add(key)
        count += 1
    if not count:
        raise UserError(f"{path} is empty: expected at least one document")
    return Corpus(path, count, name, id_column)


def blocks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of up to so many items."""
    while block := list(islice(items, size)):
        yield block


def _corpus_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    file = path / "corpus.jsonl"
    if not file.is_file():
        raise UserError(f"{path} holds no corpus.jsonl: expected a BEIR folder, or a file of documents")
    return file


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, columns) of any file."""
    for table in read_tables(path):
        yield from ((table.place(number), dict(row)) for number, row in enumerate(table.rows))


def _check_row(row: dict[str, Any], place: str, column: str, id_column: str | None) -> None:
    # Collections with titles hold some documents without a text, and count on their being there.
    empty = isinstance(row.get(column), str) and title_column(row, column) is None and not row[column].strip()
    if not isinstance(row.get(column), str) or empty:
        raise UserError(
            f"{place}: column '{column}' is {row.get(column)!r}: expected a text that is not empty"
        )
    if id_column is not None and (not isinstance(row.get(id_column), (str, int)) or row[id_column] == ""):
        raise UserError(
            f"{place}: the id in '{id_column}' is {row.get(id_column)!r}: expected a text or a whole number"
        )


def _document(row: dict[str, Any], number: int, column: str, id_column: str | None) -> Document:
    fields = {name: _plain(value) for name, value in row.items() if name not in (column, id_column)}
    key = str(row[id_column]) if id_column is not None else str(number)
    return Document(key, _text(row, column), fields)


def _text(row: dict[str, Any], column: str) -> str:
    """Return what is embedded: the title, if there is one, and the text."""
    title = title_column(row, column)
    return with_title(None if title is None else row[title], str(row[column])).strip()


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (datetime.date, datetime.datetime, datetime.time)):
        return value.isoformat()
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
