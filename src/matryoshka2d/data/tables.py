"""Files of every form, opened as one kind of table that knows on which line each of its rows stands."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matryoshka2d.errors import UserError, did_you_mean


class _Missing:
    """The value of a column that a row does not have."""


MISSING = _Missing()

Record = tuple[int, list[str]]
"""A line number and the cells that begin there."""


@dataclass(frozen=True)
class Table:
    """Rows that are not checked yet.

    Parameters
    ----------
    source
        What messages call the data: the name of the file.
    names
        The names of the columns.
    fetch
        (name of a column, row indices) → the values there.
    places
        Row index → its 1-based line (or row) in the source.
    unit
        ``"line"`` where the source has lines, otherwise ``"row"``.
    """

    source: str
    names: tuple[str, ...]
    fetch: Callable[[str, Sequence[int]], list[Any]]
    places: Sequence[int]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.places)

    def place(self, row: int) -> str:
        """Return where a row stands, as in ``"pairs.tsv, line 7"``."""
        return f"{self.source}, {self.unit} {self.places[row]}"


def open_table(path: Path) -> Table:
    """Open a file by its extension.

    Parameters
    ----------
    path
        A file ending in one of `EXTENSIONS`; the text forms may be compressed, as in ``pairs.tsv.gz``.

    Raises
    ------
    UserError
        If the file is missing, a folder, of an unknown form, empty, or broken.
    """
    extension = checked_extension(path)
    table = _parquet(path) if extension == ".parquet" else _TEXT_FORMS[extension](str(path), _text(path))
    if not len(table):
        raise UserError(f"{path} has no rows: expected at least one after the names of the columns")
    return table


def extension_of(path: Path) -> str | None:
    """Return the known extension of a path without ``.gz``, or None.

    >>> extension_of(Path("pairs.TSV.gz")), extension_of(Path("pairs.docx"))
    ('.tsv', None)
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    last = suffixes[-2 if compressed else -1 :][:1]
    known = _TEXT_FORMS if compressed else EXTENSIONS
    return last[0] if last and last[0] in known else None


def checked_extension(path: Path) -> str:
    """Return the extension of a file that is there, or raise a `UserError`."""
    _check_file(path)
    extension = extension_of(path)
    if extension is None:
        raise UserError(
            f"{path}: unknown kind of file '{path.suffix}': expected {', '.join(EXTENSIONS)}."
            f"{did_you_mean(path.suffix, EXTENSIONS)}"
        )
    return extension


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(
            f"{path} is a folder: expected a file ending in {', '.join(EXTENSIONS)}, or --streaming"
        )
    if path.is_file():
        return
    if not path.parent.is_dir():
        raise UserError(f"there is no file {path}: its folder {path.parent} does not exist")
    neighbours = [neighbour.name for neighbour in path.parent.iterdir()]
    raise UserError(f"there is no file {path}.{did_you_mean(path.name, neighbours)}")


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise unreadable(path, error, 1 + error.object.count(b"\n", 0, error.start)) from error
    except (EOFError, zlib.error, OSError) as error:
        raise unreadable(path, error) from error
    if not text.strip():
        raise UserError(f"{path} is empty: expected rows of text")
    return text


def unreadable(path: Path, error: Exception, line: int = 1) -> UserError:
    """Return what is said of a file of text that cannot be read; a wrong byte stands on the given line."""
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return UserError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8: save the file as UTF-8")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return UserError(f"{path} is not a whole gzip file: {error}; compress or download it again")
    return UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}")


def _lines(text: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank with their numbers; only a line feed ends a line."""
    numbered = ((number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in numbered if line.strip()]


def json_table(source: str, lines: Iterable[tuple[int, str]]) -> Table:
    """Return the table of numbered lines that hold a JSON object each."""
    places: list[int] = []
    rows: list[dict[str, Any]] = []
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{source}, line {number}: not JSON ({error}): expected one object a line, "
                f'as in {{"anchor": "…", "positive": "…"}}'
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f"{source}, line {number}: a JSON {_kind(row)}: expected one object a line, "
                f'as in {{"anchor": "…", "positive": "…"}}'
            )
        places.append(number)
        rows.append(row)
    # The names of all rows, not of the first: a column that some rows lack must not be dropped in silence.
    names = tuple(dict.fromkeys(name for row in rows for name in row))

    def fetch(name: str, chosen: Sequence[int]) -> list[Any]:
        return [rows[row].get(name, MISSING) for row in chosen]

    return Table(source, names, fetch, places)


def _kind(value: object) -> str:
    kinds = {list: "list", str: "text", bool: "truth value", type(None): "null"}
    return kinds.get(type(value), "number")


def csv_records(source: str, lines: Iterable[str]) -> Iterator[Record]:
    """Yield the records of a CSV file, the header first, as its lines are read."""
    reader = csv.reader(lines, strict=True)
    while True:
        first_line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{source}, line {first_line}: broken CSV ({error}): put texts with commas or quotes "
                f'in double quotes, and write a quote inside as ""'
            ) from error
        if cells:
            yield first_line, cells


def tsv_records(lines: Iterable[tuple[int, str]]) -> Iterator[Record]:
    """Yield the records of a TSV file, the header first."""
    # No quoting: a quotation mark is a character like any other, as in the STS files.
    return ((number, line.split("\t")) for number, line in lines)


def records_table(source: str, first: Record, rows: Sequence[Record]) -> Table:
    """Return the table of a header and the records under it."""
    first_line, header = first
    names = tuple(name.strip() for name in header)
    if len(set(names)) < len(names):
        raise UserError(f"{source}, line {first_line}: the header names a column twice: {', '.join(names)}")
    for number, cells in rows:
        if len(cells) != len(names):
            raise UserError(
                f"{source}, line {number}: {len(cells)} columns, expected the {len(names)} of the header: "
                f"{', '.join(names)}"
            )

    def fetch(name: str, chosen: Sequence[int]) -> list[Any]:
        column = names.index(name)
        return [rows[row][1][column] for row in chosen]

    return Table(source, names, fetch, [number for number, _ in rows])


def text_table(source: str, lines: Sequence[tuple[int, str]]) -> Table:
    """Return the table of numbered lines that hold a text each."""

    def fetch(_: str, chosen: Sequence[int]) -> list[Any]:
        return [lines[row][1] for row in chosen]

    return Table(source, ("text",), fetch, [number for number, _ in lines])


@contextlib.contextmanager
def readable_parquet(path: Path) -> Iterator[None]:
    """Say in one line that a file is not Parquet, not whole, or cannot be read."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"{path} is not a readable Parquet file ({reason}): write or download it again"
        ) from error


def _parquet(path: Path) -> Table:
    from pyarrow import parquet

    with readable_parquet(path):
        content = parquet.read_table(path)

    def fetch(name: str, chosen: Sequence[int]) -> list[Any]:
        values: list[Any] = content.column(name).take(list(chosen)).to_pylist()
        return values

    return Table(str(path), tuple(content.column_names), fetch, range(1, content.num_rows + 1), unit="row")


def _json_lines(source: str, text: str) -> Table:
    return json_table(source, _lines(text))


def _comma_separated(source: str, text: str) -> Table:
    first, *rows = csv_records(source, io.StringIO(text, newline=""))
    return records_table(source, first, rows)


def _tab_separated(source: str, text: str) -> Table:
    first, *rows = tsv_records(_lines(text))
    return records_table(source, first, rows)


def _one_text_a_line(source: str, text: str) -> Table:
    return text_table(source, _lines(text))


_TEXT_FORMS: dict[str, Callable[[str, str], Table]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".txt": _one_text_a_line,
}
EXTENSIONS = (*_TEXT_FORMS, ".parquet")
