"""A file of texts → a file of vectors, chunk by chunk, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matryoshka2d.data.checks import checked_texts
from matryoshka2d.data.row_formats import USUAL_NAMES
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
from matryoshka2d.encoder.finite import NotFiniteError
from matryoshka2d.encoder.quantization import RecallLoss, check_codes, check_targets, quantize_file
from matryoshka2d.errors import UserError, did_you_mean, needs
from matryoshka2d.files import check_file_free, open_vectors, staged_file
from matryoshka2d.inference.engine import Engine, Vectors, open_engine
from matryoshka2d.size import Size

if TYPE_CHECKING:
    import pyarrow as pa

    from matryoshka2d.encoder.elastic import ElasticEncoder

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


def encode(
    model: str | Path | ElasticEncoder,
    texts: Sequence[str] | str | os.PathLike[str],
    size: str | Size | None = None,
    *,
    prompt_name: str | None = None,
    column: str | None = None,
    engine: str = "auto",
    precision: str = "auto",
    device: str | None = None,
    pooling: str | None = None,
    show_progress_bar: bool = False,
) -> Vectors:
    """Return the vectors of texts at a size; only the layers of that size are loaded and run.

    Opens an engine for this one call: use `open_engine` for many small ones, `encode_file` for texts whose
    vectors do not fit in memory.

    Parameters
    ----------
    model
        A folder, a hub name, ``"default"``, or a loaded `ElasticEncoder`.
    texts
        A list of texts, or the path of a file of them: as in `encode_file`, a row a vector.
    size
        As ``"3x128"``; the full size by default.
    prompt_name
        A prompt of the model to put before every text, as ``"query"``.
    column
        The column of the file that holds the texts, if it is not recognized.
    engine, precision, device, pooling
        As in `open_engine`. Name ``precision="fp32"`` for vectors that are equal between machines.
    show_progress_bar
        Whether to draw progress.

    Returns
    -------
    numpy.ndarray
        float32 [texts, dims], rows of unit length, in the order of the texts.

    Raises
    ------
    UserError
        If the model lacks the size or the prompt, or a file, a text or an option is not usable.

    Examples
    --------
    >>> encode("default", ["a cat", "a dog"], "3x128", precision="fp32", device="cpu").shape
    (2, 128)
    """
    wanted = None if size is None else Size.parse(size)
    if isinstance(texts, (str, os.PathLike)):
        source = Path(texts)
        survey = look_over(source, column, with_schema=False)
        texts = [survey.text(row) for table in read_tables(source) for row in table.rows]
    loaded = not isinstance(model, (str, Path))
    opened = open_engine(model, engine, precision, device, size=None if loaded else wanted, pooling=pooling)
    chunks = embed_stream(opened, texts, wanted, prompt_name=prompt_name, show_progress_bar=show_progress_bar)
    nothing = np.empty((0, (wanted or opened.size).dims), dtype=np.float32)
    return np.concatenate([nothing, *chunks])


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
        If a file, the column or a text is not usable; the target is then as it was.
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


def encode_codes(
    engine: Engine,
    source: str | Path,
    target: str | Path,
    codes: str = "int8",
    *,
    overwrite: bool = False,
    **options: Any,
) -> tuple[int, RecallLoss]:
    """Do what `encode_file` does, and write the vectors in a byte or a bit a dim.

    Parameters
    ----------
    engine, source, target, overwrite
        As in `encode_file`; the target ends in ``.npy``, and the ranges go beside it, as ``.ranges.npy``.
    codes : {"int8", "uint8", "binary", "ubinary"}
        What the vectors are written in.
    **options
        Other options of `encode_file`.

    Returns
    -------
    tuple of int and RecallLoss
        How many texts were embedded, and what the codes cost in search.

    Raises
    ------
    UserError
        If a file, the column, a text or the codes are not usable.
    """
    target = Path(target)
    check_coded(target, codes, overwrite=overwrite)
    with staged_file(target, overwrite=overwrite) as temporary:
        # The vectors lie beside the file in the making, on the same disk, and go with its folder.
        floats = temporary.with_name(f"floats-{temporary.name}")
        encode_file(engine, source, floats, **options)
        done = quantize_file(floats, temporary, codes)
        with staged_file(check_targets(target, overwrite=overwrite), overwrite=overwrite) as ranges:
            check_targets(temporary, overwrite=True).replace(ranges)
    return done


def check_coded(target: Path, codes: str, *, overwrite: bool = False) -> None:
    """Raise a `UserError` unless codes of such a name may be written to a file of such a name."""
    check_codes(codes)
    if target.suffix != ".npy":
        raise UserError(f"codes go into a .npy file: name an output that ends in .npy instead of {target}")
    check_targets(target, overwrite=overwrite)


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
    engine: Engine,
    chunks: Iterable[list[Row]],
    survey: Survey,
    size: Size,
    prompt_name: str | None,
    bar: Any,
    before: int = 0,
    prompt: str | None = None,
) -> Iterator[Chunk]:
    """Yield (rows, vectors float32 [rows, dims]) for chunks of rows, one chunk in memory at a time.

    A text whose vector is not finite is named by its number in the file, of which `before` texts are done.
    """
    for rows in chunks:
        try:
            vectors = engine.embed(list(map(survey.text, rows)), size, prompt_name=prompt_name, prompt=prompt)
        except NotFiniteError as error:
            raise NotFiniteError(error.row, error.text, number=before + error.row + 1) from None
        yield rows, vectors
        before += len(rows)
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
        name = name or text_column(table.rows[0], column, table.source)
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
    with _as_parquet(source) as pa:
        return pa.schema(
            {
                name: pa.infer_type([None if v is MISSING else v for v in table.column(name, every)])
                for name in table.names
            }
        )


def _joined(schemas: list[pa.Schema], source: Path) -> pa.Schema:
    with _as_parquet(source) as pa:
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        return pa.schema([field for field in schema if field.name != VECTOR_COLUMN])


@contextmanager
def _as_parquet(file: Path) -> Iterator[Any]:
    """Give pyarrow, and say in one line what does not fit into a file of it."""
    needs("cli", "pyarrow")
    import pyarrow as pa

    try:
        yield pa
    except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{file} does not fit into Parquet: {reason}; choose a .jsonl output") from error


def _checked(table: Table, column: str) -> list[str]:
    """Return where texts are empty, or raise a `UserError` that names a row without one."""
    every = range(len(table))
    texts = checked_texts(table, column, every)
    return [table.place(row) for row, text in zip(every, texts, strict=True) if not text.strip()]


def text_column(row: Row, column: str | None, source: str) -> str:
    """Return the column of texts: the named one, a usual one, or the only one with texts."""
    if column is not None:
        if column not in row:
            raise UserError(
                f"{source} has no column '{column}': it has {', '.join(row)}.{did_you_mean(column, row)}"
            )
        return column
    usual = [name for known in _USUAL_COLUMNS for name in row if name.casefold() == known]
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if usual or len(texts) == 1:
        return (usual or texts)[0]
    raise UserError(f"{source}: which column holds the texts? Name one of {', '.join(row)} with --column")


def row_chunks(source: Path) -> Iterator[list[Row]]:
    """Yield the rows, a chunk at a time."""
    rows = (row for table in read_tables(source) for row in table.rows)
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


# --- writing -------------------------------------------------------------------------------------


def _write_npy(path: Path, chunks: Iterator[Chunk], survey: Survey, dims: int) -> None:
    matrix = open_vectors(path, survey.rows, dims)
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
    assert survey.schema is not None
    with _as_parquet(Path(path.name)) as pa:
        from pyarrow.parquet import ParquetWriter

        vectors_of = pa.field(VECTOR_COLUMN, pa.list_(pa.float32(), dims))
        with ParquetWriter(path, survey.schema.append(vectors_of)) as writer:
            for rows, vectors in chunks:
                table = pa.Table.from_pylist(rows, schema=survey.schema)
                column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dims)
                writer.write_table(table.append_column(vectors_of, column))


WRITERS: dict[str, Callable[[Path, Iterator[Chunk], Survey, int], None]] = {
    ".npy": _write_npy,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}


def embed_stream(
    engine: Engine,
    texts: Iterable[str],
    size: str | Size | None = None,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    chunk: int = 8192,
    show_progress_bar: bool = False,
) -> Iterator[Vectors]:
    """Yield the vectors of any number of texts, chunk by chunk.

    Parameters
    ----------
    engine
        The engine.
    texts
        The texts; read as they are needed, two chunks ahead at most.
    size, prompt_name, prompt
        As in `Engine.embed`.
    chunk
        Texts a chunk. More find more texts of equal length, fewer keep less in memory.
    show_progress_bar
        Whether to draw progress.

    Yields
    ------
    numpy.ndarray
        float32 [up to chunk, dims], rows of unit length, in the order of the texts.

    Examples
    --------
    >>> from matryoshka2d.inference import open_engine
    >>> engine = open_engine("default", precision="fp32", device="cpu")
    >>> texts = (f"sentence number {i}" for i in range(5))
    >>> [vectors.shape for vectors in embed_stream(engine, texts, "1x32", chunk=2)]
    [(2, 32), (2, 32), (1, 32)]
    """
    from tqdm.auto import tqdm

    waiting = iter(texts)
    with (
        tqdm(desc="Embedding", unit=" texts", disable=not show_progress_bar) as bar,
        ThreadPoolExecutor(1, "matryoshka2d-stream") as ahead,
    ):
        pending: Future[Vectors] | None = None
        try:
            while batch := list(islice(waiting, chunk)):
                following = ahead.submit(engine.embed, batch, size, prompt_name=prompt_name, prompt=prompt)
                if pending is not None:
                    vectors = pending.result()
                    bar.update(len(vectors))
                    yield vectors
                pending = following
            if pending is not None:
                vectors = pending.result()
                bar.update(len(vectors))
                yield vectors
        finally:
            ahead.shutdown(wait=False, cancel_futures=True)
