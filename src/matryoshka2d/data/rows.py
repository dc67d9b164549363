"""The one reader of rows: files of every form, and data sets of the hub, a few rows at a time.

`open_shards` gives the parts of a source, each of which can be read again and again; `read_table` takes all
of them at once. Every row knows the file and the line where it stands.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from matryoshka2d.data.lines import COMPRESSIONS, filled_lines, numbered_lines, without_compression
from matryoshka2d.errors import UserError, did_you_mean, needs

if TYPE_CHECKING:
    import pyarrow

CHUNK = 1024
"""Rows that are read, and checked, at a time; the first so many say which columns there are."""

SPLIT_COLUMN = "split"
EVERY_SPLIT = "all"

T = TypeVar("T")
Row = dict[str, Any]
"""Name of a column → the value there."""
PlacedRow = tuple[str, Row]
"""Where a row stands, as ``"line 7"``, and the row."""

logger = logging.getLogger(__name__)

_SAVED = ("dataset_dict.json", "state.json")
_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
_SPLIT_OF_FILE = re.compile(r"(train|test|validation|valid|val|dev)(?![a-z])", re.IGNORECASE)
_LONGEST_CELL = 2**31 - 1
_AS_IN = 'expected one object a line, as in {"text": "…"}'


class _Missing:
    """The value of a column that a row does not have."""


MISSING = _Missing()


@dataclass(frozen=True)
class Table:
    """Some rows that are not checked yet.

    Parameters
    ----------
    source
        What messages call the data: the name of the file.
    rows
        The rows.
    places
        Where each of them stands: its 1-based line, or row where there are no lines.
    """

    source: str
    rows: Sequence[Row]
    places: Sequence[str]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns that any row has: one that some rows lack is not dropped in silence."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    def column(self, name: str, chosen: Sequence[int]) -> list[Any]:
        """Return the values of some rows; `MISSING` where a row has none."""
        return [self.rows[row].get(name, MISSING) for row in chosen]

    def of_split(self, split: str | None) -> Sequence[int]:
        """Return the rows of a split, or all; a row that names no split is of every one."""
        if split in (None, EVERY_SPLIT):
            return range(len(self))
        wanted = same_split(split)
        return [i for i, row in enumerate(self.rows) if same_split(row.get(SPLIT_COLUMN, split)) == wanted]

    def place(self, row: int) -> str:
        """Return where a row stands, as in ``"pairs.tsv, line 7"``."""
        return f"{self.source}, {self.places[row]}"


@dataclass(frozen=True)
class Shard:
    """A part of a data set that can be read again and again, from its beginning.

    Parameters
    ----------
    source
        What messages call it: the name of the file.
    names
        The names of its columns; none if it has no rows.
    count
        How many rows it has, or None if only reading it would tell.
    tables
        Names of the columns that are needed, or None for all → tables of up to `CHUNK` rows, read as they
        are asked for. Forms that are read by lines give every column.
    schema
        The types of the columns, where the form has types.
    """

    source: str
    names: tuple[str, ...]
    count: int | None
    tables: Callable[[Sequence[str] | None], Iterator[Table]]
    schema: pyarrow.Schema | None = None


def open_shards(
    source: str | os.PathLike[str], split: str | None = None, *, hub: bool = False, whole: bool = False
) -> tuple[list[Shard], int | None]:
    """Return the parts of a source that hold rows, in the order of their names, and how many rows they hold.

    The number is None where only reading the rest would tell.

    Parameters
    ----------
    source
        A file, a folder of files of one kind, a folder that ``datasets`` saved, a pattern
        (``rows/nli-*.parquet``), or a data set of the hub: ``owner/name`` or ``owner/name:config``.
    split
        Which split to read, where splits are files or folders of their own; ``"all"`` for every one.
    hub
        Whether names of the hub are taken.
    whole
        Read forms of lines at once, and keep their rows: then the names are those of all rows, and the count
        is known. By default only the first rows are read.

    Raises
    ------
    UserError
        If there is nothing to read, or a file is broken.
    """
    if hub and is_hub_name(source):
        shards, rows = _hub_shards(str(source), split, whole=whole)
    else:
        shards = [_open_shard(path, whole=whole) for path in source_files(source, split)]
        known = [shard.count for shard in shards if shard.count is not None]
        rows = sum(known) if len(known) == len(shards) else None
    filled = [shard for shard in shards if shard.count != 0]
    if not filled:
        raise UserError(f"{os.fspath(source)} is empty: it has no rows, expected at least one")
    return filled, rows


def read_tables(source: str | os.PathLike[str], split: str | None = None) -> Iterator[Table]:
    """Yield all rows of a file or folder, some at a time; see `open_shards`."""
    return chain.from_iterable(shard.tables(None) for shard in open_shards(source, split)[0])


def with_title(title: object, text: str) -> str:
    """Return a document as it is embedded everywhere: its title, if there is one, before its text.

    >>> with_title("Rivers", "The Rhine flows north."), with_title(None, "A cat.")
    ('Rivers The Rhine flows north.', 'A cat.')
    """
    return text if title is None else f"{title if isinstance(title, str) else ''} {text}".strip()


def title_column(names: Iterable[str], column: str) -> str | None:
    """Return the column of titles that stands beside one called ``text``, if there is one.

    >>> title_column(["_id", "title", "text"], "text"), title_column(["title", "body"], "body")
    ('title', None)
    """
    titles = [name for name in names if name.casefold() == "title"]
    return titles[0] if titles and column.casefold() == "text" else None


def same_split(name: object) -> str:
    """Return a name that all spellings of a split share.

    >>> same_split("dev"), same_split("Validation"), same_split("test")
    ('validation', 'validation', 'test')
    """
    folded = str(name).strip().casefold()
    return "validation" if folded in ("dev", "val", "valid") else folded


# --- which files --------------------------------------------------------------------------------------------


def extension_of(path: Path) -> str | None:
    """Return the known extension of a path, whether it is compressed or not, or None.

    >>> extension_of(Path("pairs.TSV.gz")), extension_of(Path("pairs.docx"))
    ('.tsv', None)
    """
    suffix = Path(without_compression(path)).suffix.lower()
    compressed = path.suffix.lower() in COMPRESSIONS
    return suffix if suffix in (_LINE_FORMS if compressed else EXTENSIONS) else None


def source_files(source: str | os.PathLike[str], split: str | None = None) -> list[Path]:
    """Return the files that a path or a pattern stands for, in the order of their names.

    >>> source_files("rows/none-*.parquet")
    Traceback (most recent call last):
    ...
    matryoshka2d.errors.UserError: no file matches rows/none-*.parquet: ...
    """
    path = Path(source)
    if path.is_dir():
        return _saved_files(path, split) or _files_in(path, split)
    if not (glob.has_magic(str(source)) and not path.exists()):
        return [path]
    found = [match for match in matching(source) if match.is_file() and not is_hidden(match)]
    if not found:
        raise UserError(f"no file matches {source}: expected shards ending in {', '.join(EXTENSIONS)}")
    return found


def matching(pattern: str | os.PathLike[str]) -> list[Path]:
    """Return what there is of names that match a pattern, in their order.

    >>> matching("no/such-*.parquet")
    []
    """
    # Not `Path.glob`, which knows patterns that it cannot take.
    return sorted(map(Path, glob.glob(os.fspath(pattern), recursive=True)))  # noqa: PTH207


def is_hidden(path: Path) -> bool:
    """Return whether a file is one that systems and archives leave, such as ``._rows.csv``."""
    return path.name.startswith((".", "~$")) or "__MACOSX" in path.parts


def is_one_set(folder: Path) -> bool:
    """Return whether a folder is one data set: ``datasets`` saved it, or its files are named after splits."""
    if any((folder / name).is_file() for name in _SAVED):
        return True
    files = [file for file in folder.iterdir() if extension_of(file) and not is_hidden(file)]
    return bool(files) and all(_SPLIT_OF_FILE.match(file.name) for file in files)


@cache
def note_once(message: str) -> None:
    """Log a note, once a process however often the same file is read."""
    logger.warning("note: %s", message)


def is_hub_name(source: str | os.PathLike[str]) -> bool:
    """Whether a source is the name of a hub data set rather than a file that exists or could.

    >>> is_hub_name("sentence-transformers/all-nli:triplet"), is_hub_name("rows/pairs.jsonl")
    (True, False)
    """
    path = Path(source)
    name = isinstance(source, str) and _HUB_NAME.fullmatch(source) is not None
    # "data/pairs" beside a folder "data" is far more likely a mistyped file than a user named "data".
    return name and not path.exists() and not path.parent.is_dir() and extension_of(path) is None


def _saved_files(folder: Path, split: str | None) -> list[Path]:
    """Return the files of a folder that ``datasets`` saved; none if it did not."""
    if (folder / "dataset_dict.json").is_file():
        splits = _facts(folder / "dataset_dict.json", "splits")
        chosen = _of_split({name: str(name) for name in splits}, split, folder)
        return [file for name in chosen for file in _saved_files(folder / name, split)]
    if (folder / "state.json").is_file():
        files = _facts(folder / "state.json", "_data_files")
        return [folder / str(file.get("filename", "") if isinstance(file, dict) else "") for file in files]
    return []


def _facts(path: Path, name: str) -> list[Any]:
    """Return a list that a file of ``datasets`` holds under a name."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[name]
    except (ValueError, RecursionError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} is not one that datasets wrote: it tells no {name}") from error
    return list(found) if isinstance(found, list) else []


def _files_in(folder: Path, split: str | None) -> list[Path]:
    files = sorted(child for child in folder.iterdir() if extension_of(child) and child.is_file())
    files = [file for file in files if not is_hidden(file)]
    kinds = sorted({extension_of(file) or "" for file in files})
    if not files:
        raise UserError(f"{folder} holds no data: expected shards ending in {', '.join(EXTENSIONS)}")
    if len(kinds) > 1:
        raise UserError(
            f"{folder} holds files of several kinds ({', '.join(kinds)}): name those of one, as in "
            f"'{folder}/*{kinds[-1]}'"
        )
    # As hubs keep them: train-00000-of-00002.parquet beside test-00000-of-00001.parquet.
    named = {file: match[1] for file in files if (match := _SPLIT_OF_FILE.match(file.name))}
    return _of_split(named, split, folder) if len(named) == len(files) else files


def _of_split(named: dict[T, str], split: str | None, folder: Path) -> list[T]:
    """Return those of a split; where none is asked for there must be one split alone."""
    found = dict.fromkeys(map(same_split, named.values()))
    if split == EVERY_SPLIT or (split is None and len(found) == 1):
        return list(named)
    chosen = [
        key for key, name in named.items() if split is not None and same_split(name) == same_split(split)
    ]
    if not chosen:
        problem = "holds several splits" if split is None else f"has no rows of split '{split}'"
        listed = ", ".join(dict.fromkeys(named.values()))
        raise UserError(f"{folder} {problem}: found {listed}; name one, or its files or folder")
    return chosen


def _check_file(path: Path) -> None:
    if path.is_file():
        return
    if path.exists():
        kind = "a folder" if path.is_dir() else "neither a file nor a folder"
        raise UserError(f"{path} is {kind}: expected a file ending in {', '.join(EXTENSIONS)}")
    if not path.parent.is_dir():
        raise UserError(f"there is no file {path}: its folder {path.parent} does not exist")
    neighbors = [neighbor.name for neighbor in path.parent.iterdir()]
    raise UserError(f"there is no file {path}.{did_you_mean(path.name, neighbors)}")


# --- forms of lines -----------------------------------------------------------------------------------------


def _open_shard(path: Path, *, whole: bool) -> Shard:
    _check_file(path)
    extension = extension_of(path)
    if extension is None:
        raise UserError(
            f"{path}: unknown kind of file '{path.suffix}': expected {', '.join(EXTENSIONS)}."
            f"{did_you_mean(path.suffix, EXTENSIONS)}"
        )
    if extension in _ARROW_FORMS:
        return _arrow_shard(path, _ARROW_FORMS[extension])
    tables = partial(_line_tables, path, _LINE_FORMS[extension])
    if whole:
        held = list(tables())
        names = tuple(dict.fromkeys(name for table in held for name in table.names))
        return Shard(str(path), names, sum(map(len, held)), lambda _: iter(held))
    first = next(tables(), None)
    return Shard(str(path), first.names if first else (), None if first else 0, lambda _: tables())


def _line_tables(path: Path, read: Callable[[Path], Iterator[PlacedRow]]) -> Iterator[Table]:
    rows = read(path)
    while some := list(islice(rows, CHUNK)):
        yield Table(str(path), [row for _, row in some], [place for place, _ in some])


def _json_rows(path: Path) -> Iterator[PlacedRow]:
    lines = filled_lines(path)
    first = next(lines, None)
    if first is None:
        return
    if first[1].lstrip().startswith("["):
        yield from _array_rows(path, "\n".join(line for _, line in chain([first], lines)))
        return
    for number, line in chain([first], lines):
        place = f"line {number}"
        yield place, _object(f"{path}, {place}", _parsed(f"{path}, {place}", line), line)


def _array_rows(path: Path, text: str) -> Iterator[PlacedRow]:
    """Yield the objects of a file that is one JSON array: it is read whole."""
    for number, row in enumerate(_parsed(f"{path}, line 1", text), start=1):
        yield f"row {number}", _object(f"{path}, row {number}", row, text)


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({error}): {_AS_IN}") from error


def _object(place: str, row: Any, text: str) -> Row:
    """Return a value that was read from a text of JSON, if it is an object of whole characters."""
    if not isinstance(row, dict):
        kinds = {list: "list", str: "text", bool: "truth value", type(None): "null"}
        raise UserError(f"{place}: a JSON {kinds.get(type(row), 'number')}: {_AS_IN}")
    if "\\u" in text:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise UserError(f"{place}: half a surrogate pair: remove it") from error
    return row


def _csv_rows(path: Path) -> Iterator[PlacedRow]:
    """Yield the rows of a CSV file; a header without commas tells another sign between its columns."""
    lines = (line for _, line in numbered_lines(path))
    first = next(lines, None)
    skipped = 0
    if first is not None and re.fullmatch(r"sep=(.)\s*", first, re.IGNORECASE):
        # The line by which spreadsheets say the sign; the header tells it as well.
        first, skipped = next(lines, None), 1
    if first is None:
        return
    sign = next((sign for sign in ",;\t" if sign in first), ",")
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(chain([first], lines), delimiter=sign, strict=True)
    names: Sequence[str] | None = None
    while True:
        place = f"line {reader.line_num + 1 + skipped}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{path}, {place}: broken CSV ({error}): put texts with commas or quotes "
                f'in double quotes, and write a quote inside as ""'
            ) from error
        if names is None:
            names = _header(path, place, cells) if any(map(str.strip, cells)) else None
        elif len(cells) > 1 or any(map(str.strip, cells)) or len(cells) == len(names):
            yield place, _row(path, place, names, cells)


def _tsv_rows(path: Path) -> Iterator[PlacedRow]:
    """Yield the rows of a TSV file: a quotation mark is a character like any other, as in the STS files."""
    records = ((f"line {number}", line.split("\t")) for number, line in filled_lines(path))
    first = next(records, None)
    if first is not None:
        names = _header(path, *first)
        yield from ((place, _row(path, place, names, cells)) for place, cells in records)


def _header(path: Path, place: str, cells: Sequence[str]) -> Sequence[str]:
    names = [name.strip() for name in cells]
    # Columns without a name, such as the numbers of pandas, are not asked for.
    named = list(filter(None, names))
    if len(set(named)) < len(named):
        raise UserError(f"{path}, {place}: the header names a column twice: {', '.join(names)}")
    return names


def _row(path: Path, place: str, names: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(names):
        raise UserError(
            f"{path}, {place}: {len(cells)} columns, expected the {len(names)} of the header: "
            f"{', '.join(names)}"
        )
    return dict(zip(names, cells, strict=True))


def _text_rows(path: Path) -> Iterator[PlacedRow]:
    return ((f"line {number}", {"text": line}) for number, line in filled_lines(path))


# --- forms of columns ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _readable(path: Path, form: str) -> Iterator[None]:
    """Say in one line that a file is not of its form, not whole, or cannot be read."""
    needs("cli", "pyarrow")
    import pyarrow

    try:
        yield
    except UserError:
        raise
    # Values of a broken file may be any: dates beyond the calendar, texts that are not UTF-8.
    except (pyarrow.ArrowException, ValueError, OverflowError, OSError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a readable {form} file ({first_line_of(error)}): write or download it again"
        ) from error


Batches = Callable[[Path, Sequence[str] | None], Iterator[Any]]
"""(path, names of columns) → the schema and the number of rows, if it is known, then batches of rows."""


def _parquet_batches(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        yield file.schema_arrow, file.metadata.num_rows
        yield from file.iter_batches(batch_size=CHUNK, columns=None if columns is None else list(columns))


def _arrow_batches(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pyarrow.ipc.open_file(file)
            batches = (reader.get_batch(place) for place in range(reader.num_record_batches))
        else:
            file.seek(0)
            batches = reader = pyarrow.ipc.open_stream(file)
        yield reader.schema, None
        for batch in batches:
            # Unlike Parquet, the bytes are taken as they are: a broken file must not be read beyond its end.
            batch.validate(full=True)
            chosen = batch if columns is None else batch.select(list(columns))
            yield from (chosen.slice(start, CHUNK) for start in range(0, len(chosen), CHUNK))


def _arrow_shard(path: Path, form: tuple[str, Batches]) -> Shard:
    name, batches = form
    with _readable(path, name):
        schema, count = next(batches(path, None))
        names = tuple(schema.names)
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a column twice: {', '.join(names)}")

    def tables(columns: Sequence[str] | None) -> Iterator[Table]:
        start = 1
        with _readable(path, name):
            for batch in islice(batches(path, columns), 1, None):
                yield _numbered(str(path), batch.to_pylist(), start)
                start += len(batch)
            if count is not None and start - 1 != count:
                raise ValueError(f"{start - 1} rows where {count} are announced")

    shard = Shard(str(path), names, count, tables, schema)
    return shard if count is not None or next(tables(None), None) else replace(shard, count=0)


def _numbered(source: str, rows: list[Row], start: int) -> Table:
    return Table(source, rows, [f"row {number}" for number in range(start, start + len(rows))])


_LINE_FORMS: dict[str, Callable[[Path], Iterator[PlacedRow]]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".txt": _text_rows,
}
_ARROW_FORMS: dict[str, tuple[str, Batches]] = {
    ".parquet": ("Parquet", _parquet_batches),
    ".arrow": ("Arrow", _arrow_batches),
}
EXTENSIONS = (*_LINE_FORMS, *_ARROW_FORMS)


# --- the hub ------------------------------------------------------------------------------------------------


def _hub_shards(source: str, split: str | None, *, whole: bool) -> tuple[list[Shard], int | None]:
    content = _load_hub(source, split, **({} if whole else {"streaming": True}))
    if whole:
        return [_hub_shard(source, content, len(content))], len(content)
    known = (content.info.splits or {}).get(str(content.split))
    parts = (content.shard(content.num_shards, part) for part in range(content.num_shards))
    return [_hub_shard(source, part, None) for part in parts], known.num_examples or None if known else None


def _hub_shard(source: str, content: Any, count: int | None) -> Shard:
    with _hub_errors(source):
        names = tuple(content.column_names or next(iter(content), {}))
    return Shard(source, names, count, partial(_hub_tables, source, content))


def _hub_tables(source: str, content: Any, columns: Sequence[str] | None) -> Iterator[Table]:
    start = 1
    with _hub_errors(source):
        chosen = content if columns is None else content.select_columns(list(columns))
        for batch in chosen.iter(batch_size=CHUNK):
            rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
            yield _numbered(source, rows, start)
            start += len(rows)


def _load_hub(source: str, split: str | None, **choices: Any) -> Any:
    needs("train", "datasets")
    import datasets

    match = _HUB_NAME.fullmatch(source)
    assert match is not None
    try:
        return datasets.load_dataset(match[1], match[2], split=split or EVERY_SPLIT, **choices)
    except Exception as error:  # the hub's clients raise kinds of several libraries, all the user's to mend
        raise UserError(
            f"cannot load '{source}', which is no file here, from the hub: {first_line_of(error)}; "
            f"expected a file or owner/name or owner/name:config, and split '{split}'"
        ) from error


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


def first_line_of(error: Exception) -> str:
    """Return the first line of what an error of another library says, or its name."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
