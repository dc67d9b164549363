"""A file of texts → a file of vectors, chunk by chunk, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matryoshka2d.data.checks import checked_texts
from matryoshka2d.data.formats import USUAL_NAMES
from matryoshka2d.data.rows import (
    MISSING,
    Row,
    Table,
    note_once,
    open_shards,
    read_tables,
    title_column,
    with_title,
)
from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.files import check_file_free, staged_file
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.inference import Engine

_CHUNK = 8192
OUTPUTS = (".npy", ".parquet", ".jsonl")
_USUAL_COLUMNS = (*USUAL_NAMES["text"], "query")
VECTOR_COLUMN = "embedding"

Chunk = tuple[list[Row], np.ndarray]


@dataclass(frozen=True)
class Survey:
    """What one look over the input tells: it is sound, and this is what it holds.

    Parameters
    ----------
    rows
        How many texts there are.
    column
        The column of texts.
    title
        The column of titles that belong before the texts, or None.
    schema
        The columns of a Parquet output but for the vectors; None for other outputs.
    """

    rows: int
    column: str
    title: str | None = None
    schema: pa.Schema | None = None

    def text(self, row: Row) -> str:
        """Return the text of a row as it is embedded."""
        text = row[self.column] or ""
        return text if self.title is None else with_title(row.get(self.title), text)


def check_files(
    source: str | Path, target: str | Path, *, column: str | None = None, overwrite: bool = False
) -> Survey:
    """Look over the input once and see that the output may be written; call it before a model is loaded.

    Parameters
    ----------
    source, target, column, overwrite
        As in `encode_file`.

    Raises
    ------
    UserError
        If a file, the column or a text is not usable.
    """
    source, target = Path(source), Path(target)
    if target.suffix not in OUTPUTS:
        raise UserError(f"output {target} ends in '{target.suffix}': expected {', '.join(OUTPUTS)}")
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{target} is the input itself: choose another output")
    check_file_free(target, overwrite=overwrite)
    return look_over(source, column, with_schema=target.suffix == ".parquet")


def check_prompt(prompts: Iterable[str], prompt_name: str | None) -> None:
    """Raise a `UserError` unless the prompt is one of the model's, or none is asked for."""
    names = list(prompts)
    if prompt_name is not None and prompt_name not in names:
        known = f"expected one of {', '.join(names)}" if names else "it has none"
        raise UserError(
            f"the model has no prompt '{prompt_name}': {known}.{did_you_mean(prompt_name, names)}"
        )


def encode_file(
    engine: Engine,
    source: str | Path,
    target: str | Path,
    *,
    size: str | Size | None = None,
    column: str | None = None,
    prompt_name: str | None = None,
    overwrite: bool = False,
    show_progress_bar: bool = False,
) -> int:
    """Embed every text of a file at a size and write the vectors.

    Parameters
    ----------
    engine
        The engine.
    source
        A file or folder of any form that `matryoshka2d.data.read_rows` takes, but no name of the hub. Blank
        lines are skipped; an empty text in a row gets the vector of an empty text, with a note.
    target
        ``.npy`` (float32 [rows, dims]), or ``.parquet`` or ``.jsonl`` with the input's columns and one
        more, ``embedding``; an older column of that name is replaced.
    column
        The column of texts; by default ``text`` or another usual name, or the only one. A column ``title``
        is put before ``text``, as `evaluate` does with a corpus; name the column to have it alone.
    size, prompt_name
        As in `Engine.embed`.
    show_progress_bar
        Whether to draw progress.
    overwrite
        Whether an existing target may be replaced.

    Returns
    -------
    int
        How many texts were embedded.

    Raises
    ------
    UserError
        If a file, the column or a text is not usable; the target is then untouched.
    """
    source, target = Path(source), Path(target)
    survey = check_files(source, target, column=column, overwrite=overwrite)
    wanted = engine.size if size is None else Size.parse(size)
    with (
        progress(survey.rows, show_progress_bar) as bar,
        staged_file(target, overwrite=overwrite) as temporary,
    ):
        embedded = embedded_chunks(engine, row_chunks(source), survey, wanted, prompt_name, bar)
        WRITERS[target.suffix](temporary, embedded, survey, wanted.dims)
    return survey.rows


def read_texts(source: str | os.PathLike[str], *, column: str | None = None) -> list[str]:
    """Return every text of a file that is not empty, in order.

    Parameters
    ----------
    source, column
        As in `encode_file`.

    Raises
    ------
    UserError
        If the file, the column or a text is not usable.
    """
    path = Path(source)
    survey = look_over(path, column, with_schema=False)
    texts = (survey.text(row) for table in read_tables(path) for row in table.rows)
    return [text for text in texts if text.strip()]


def embedded_chunks(
    engine: Engine, chunks: Iterable[list[Row]], survey: Survey, size: Size, prompt_name: str | None, bar: Any
) -> Iterator[Chunk]:
    """Yield (rows, vectors float32 [rows, dims]) for chunks of rows, one chunk in memory at a time."""
    for rows in chunks:
        yield rows, engine.embed(list(map(survey.text, rows)), size, prompt_name=prompt_name)
        bar.update(len(rows))


def progress(rows: int, show: bool) -> Any:
    """Return a progress bar over so many texts."""
    from tqdm.auto import tqdm

    return tqdm(total=rows, desc="Encoding", unit=" texts", disable=not show)


def look_over(source: Path, column: str | None, *, with_schema: bool) -> Survey:
    """Read the whole input once: see that every row has a text, and which columns there are."""
    shards, _ = open_shards(source)
    name, names, total, empty = "", dict[str, None](), 0, list[str]()
    schemas = [shard.schema for shard in shards if shard.schema is not None] if with_schema else []
    for table in (table for shard in shards for table in shard.tables(None)):
        name = name or _text_column(table, column)
        empty += _checked(table, name)
        names |= dict.fromkeys(table.names)
        total += len(table)
        if with_schema and shards[0].schema is None:
            schemas.append(_schema(table, source))
    title = title_column(names, name) if column is None else None
    if title is not None:
        note_once(f"{source}: '{title}' is put before '{name}'; --column {name} leaves it out")
    if len(empty) == total:
        raise UserError(f"{source}: every text of column '{name}' is empty: expected one at least")
    if empty:
        note_once(f"{len(empty)} of {total} texts are empty, first {empty[0]}")
    return Survey(total, name, title, _joined(schemas, source) if with_schema else None)


def _schema(table: Table, source: Path) -> pa.Schema:
    """Return the columns of all rows: a later row may have more than the first."""
    every = range(len(table))
    with _as_parquet(source):
        return pa.schema(
            {
                name: pa.infer_type([None if v is MISSING else v for v in table.column(name, every)])
                for name in table.names
            }
        )


def _joined(schemas: list[pa.Schema], source: Path) -> pa.Schema:
    with _as_parquet(source):
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    return pa.schema([field for field in schema if field.name != VECTOR_COLUMN])


@contextmanager
def _as_parquet(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{file} does not fit into Parquet: {reason}; choose a .jsonl output") from error


def _checked(table: Table, column: str) -> list[str]:
    """Return where texts are empty, or raise a `UserError` that names a row without one."""
    every = range(len(table))
    texts = checked_texts(table, column, every)
    return [table.place(row) for row, text in zip(every, texts, strict=True) if not text.strip()]


def _text_column(table: Table, column: str | None) -> str:
    row = table.rows[0]
    if column is not None:
        if column not in row:
            raise UserError(
                f"{table.source} has no column '{column}': it has {', '.join(row)}."
                f"{did_you_mean(column, row)}"
            )
        return column
    usual = [name for known in _USUAL_COLUMNS for name in row if name.casefold() == known]
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if usual or len(texts) == 1:
        return (usual or texts)[0]
    raise UserError(
        f"{table.source}: which column holds the texts? Name one of {', '.join(row)} with --column"
    )


def row_chunks(source: Path) -> Iterator[list[Row]]:
    """Yield the rows, a chunk at a time."""
    rows = (row for table in read_tables(source) for row in table.rows)
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


# --- writing -------------------------------------------------------------------------------------


def _write_npy(path: Path, chunks: Iterator[Chunk], survey: Survey, dims: int) -> None:
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(survey.rows, dims))
    start = 0
    for _, vectors in chunks:
        matrix[start : start + len(vectors)] = vectors
        start += len(vectors)
    matrix.flush()


def _write_jsonl(path: Path, chunks: Iterator[Chunk], *_: Any) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for rows, vectors in chunks:
            for row, vector in zip(rows, vectors, strict=True):
                out.write(_as_json({**row, VECTOR_COLUMN: vector.tolist()}) + "\n")


def _as_json(row: Row) -> str:
    """Return a row as JSON, which has neither dates, which become texts, nor NaN, which becomes null."""
    try:
        return json.dumps(row, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(row), ensure_ascii=False, default=str, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_parquet(path: Path, chunks: Iterator[Chunk], survey: Survey, dims: int) -> None:
    vectors_of = pa.field(VECTOR_COLUMN, pa.list_(pa.float32(), dims))
    assert survey.schema is not None
    with _as_parquet(Path(path.name)), pq.ParquetWriter(path, survey.schema.append(vectors_of)) as writer:
        for rows, vectors in chunks:
            table = pa.Table.from_pylist(rows, schema=survey.schema)
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dims)
            writer.write_table(table.append_column(vectors_of, column))


WRITERS: dict[str, Callable[[Path, Iterator[Chunk], Survey, int], None]] = {
    ".npy": _write_npy,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
