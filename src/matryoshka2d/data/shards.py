"""Shards: the files of a data set, or its parts on the hub, each read a few rows at a time."""

from __future__ import annotations

import contextlib
import glob
import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from matryoshka2d.data.readers import first_line_of, is_hub_name, load_hub
from matryoshka2d.data.tables import (
    EXTENSIONS,
    Record,
    Table,
    checked_extension,
    csv_records,
    extension_of,
    json_table,
    readable_parquet,
    records_table,
    text_table,
    tsv_records,
    unreadable,
)
from matryoshka2d.errors import UserError

CHUNK = 1024
"""Rows that are read, and checked, at a time; the first so many say which columns there are."""

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """A part of a data set that can be read again and again, from its beginning.

    Parameters
    ----------
    source
        What messages call it: the name of the file.
    names
        The names of its columns; none if it has no rows.
    rows
        How many rows it has, or None if only reading it would tell.
    tables
        Names of the columns that are needed → tables of up to `CHUNK` rows, read as they are asked for.
    """

    source: str
    names: tuple[str, ...]
    rows: int | None
    tables: Callable[[Sequence[str]], Iterator[Table]]


def open_shards(source: str, split: str | None) -> tuple[list[Shard], int | None]:
    """Return the shards of a source, in the order of their names, and how many rows they have together.

    Nothing but their beginnings is read; the number is None if only reading the rest would tell.

    Parameters
    ----------
    source
        A file, a folder of files of one kind, a pattern (``rows/nli-*.parquet``), or a data set of the hub
        as in `read_rows`.
    split
        Which split to read from the hub.

    Raises
    ------
    UserError
        If there is nothing to read, or a file is broken.
    """
    if is_hub_name(source):
        return _hub_shards(source, split)
    shards = [_open_shard(path) for path in shard_files(source)]
    known = [shard.rows for shard in shards if shard.rows is not None]
    return shards, sum(known) if len(known) == len(shards) else None


def shard_files(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files that a path or a pattern stands for, in the order of their names.

    >>> shard_files("rows/none-*.parquet")
    Traceback (most recent call last):
    ...
    matryoshka2d.errors.UserError: no file matches rows/none-*.parquet: ...
    """
    path = Path(source)
    if path.is_dir():
        return _files_in(path)
    if not is_pattern(source):
        return [path]
    found = [match for match in matching(source) if match.is_file()]
    if not found:
        raise UserError(f"no file matches {source}: expected shards ending in {', '.join(EXTENSIONS)}")
    return found


def matching(pattern: str | os.PathLike[str]) -> list[Path]:
    """Return what there is of names that match a pattern, in their order.

    >>> matching("no/such-*.parquet")
    []
    """
    path = Path(pattern)
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def is_pattern(source: str | os.PathLike[str]) -> bool:
    """Return whether a source is a pattern of file names rather than the name of one.

    >>> is_pattern("rows/nli-*.parquet"), is_pattern("rows/nli.parquet")
    (True, False)
    """
    return glob.has_magic(str(source)) and not Path(source).exists()


def _files_in(folder: Path) -> list[Path]:
    files = sorted(child for child in folder.iterdir() if child.is_file() and extension_of(child))
    kinds = sorted({extension_of(file) or "" for file in files})
    if not files:
        raise UserError(f"{folder} holds no data: expected shards ending in {', '.join(EXTENSIONS)}")
    if len(kinds) > 1:
        raise UserError(
            f"{folder} holds files of several kinds ({', '.join(kinds)}): name those of one, as in "
            f"'{folder}/*{kinds[-1]}'"
        )
    return files


def _open_shard(path: Path) -> Shard:
    extension = checked_extension(path)
    if extension == ".parquet":
        return _parquet_shard(path)
    tables = _TEXT_FORMS[extension]
    first = next(tables(path), None)
    rows = None if first else 0
    return Shard(str(path), first.names if first else (), rows, lambda _: tables(path))


def _parquet_shard(path: Path) -> Shard:
    from pyarrow import parquet

    with readable_parquet(path), parquet.ParquetFile(path) as file:
        names, rows = tuple(file.schema_arrow.names), file.metadata.num_rows

    def tables(needed: Sequence[str]) -> Iterator[Table]:
        start = 1
        with readable_parquet(path), parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=CHUNK, columns=list(needed)):
                yield _column_table(str(path), batch.to_pydict(), start)
                start += batch.num_rows

    return Shard(str(path), names, rows, tables)


def _hub_shards(source: str, split: str | None) -> tuple[list[Shard], int | None]:
    content = load_hub(source, split, streaming=True)
    with _hub_errors(source):
        names = tuple(content.column_names or next(iter(content), {}))
    known = (content.info.splits or {}).get(str(content.split))
    rows = known.num_examples if known else None
    parts = [content.shard(content.num_shards, part) for part in range(content.num_shards)]
    shards = [Shard(source, names, None, partial(_hub_tables, source, part)) for part in parts]
    return shards, rows or None


def _hub_tables(source: str, content: Any, needed: Sequence[str]) -> Iterator[Table]:
    start = 1
    with _hub_errors(source):
        for columns in content.select_columns(list(needed)).iter(batch_size=CHUNK):
            table = _column_table(source, columns, start)
            yield table
            start += len(table)


@contextlib.contextmanager
def _hub_errors(source: str) -> Iterator[None]:
    """Say in one line that the hub, or the way to it, failed."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the hub's clients raise kinds of several libraries
        raise UserError(
            f"cannot read {source} from the hub: {first_line_of(error)}; try again, and a run that has "
            "checkpoints with --resume"
        ) from error


def _column_table(source: str, columns: dict[str, list[Any]], start: int) -> Table:
    rows = len(next(iter(columns.values()), []))

    def fetch(name: str, chosen: Sequence[int]) -> list[Any]:
        return [columns[name][row] for row in chosen]

    return Table(source, tuple(columns), fetch, range(start, start + rows), unit="row")


def _json_tables(path: Path) -> Iterator[Table]:
    return (json_table(str(path), lines) for lines in _grouped(_filled_lines(path)))


def _text_tables(path: Path) -> Iterator[Table]:
    return (text_table(str(path), lines) for lines in _grouped(_filled_lines(path)))


def _tsv_tables(path: Path) -> Iterator[Table]:
    return _record_tables(path, tsv_records(_filled_lines(path)))


def _csv_tables(path: Path) -> Iterator[Table]:
    return _record_tables(path, csv_records(str(path), (line for _, line in _lines(path))))


def _record_tables(path: Path, records: Iterator[Record]) -> Iterator[Table]:
    header = next(records, None)
    if header is not None:
        yield from (records_table(str(path), header, rows) for rows in _grouped(records))


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, without what ends them, and their numbers."""
    stripped = ((number, line.removesuffix("\n").removesuffix("\r")) for number, line in _lines(path))
    return ((number, line) for number, line in stripped if line.strip())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file, compressed or not, and their numbers; only a line feed ends a line."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    number = 0
    try:
        with opened(path, "rb") as file:
            for line in file:
                number += 1
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except (UnicodeDecodeError, EOFError, zlib.error, OSError) as error:
        raise unreadable(path, error, number) from error


def _grouped(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield lists of `CHUNK` items, and a last one of those that are left."""
    rest = iter(items)
    return iter(lambda: list(islice(rest, CHUNK)), [])


_TEXT_FORMS: dict[str, Callable[[Path], Iterator[Table]]] = {
    ".jsonl": _json_tables,
    ".ndjson": _json_tables,
    ".json": _json_tables,
    ".csv": _csv_tables,
    ".tsv": _tsv_tables,
    ".txt": _text_tables,
}
