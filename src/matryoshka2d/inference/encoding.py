"""A file of texts → a file of vectors, chunk by chunk, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.files import check_file_free, check_free, staged_file
from matryoshka2d.inference.engine import Engine, Vectors
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.inference import Engine

_CHUNK = 8192
_INPUTS = (".txt", ".jsonl", ".parquet")
OUTPUTS = (".npy", ".parquet", ".jsonl")
_USUAL_COLUMNS = ("text", "sentence", "content", "body", "passage", "document", "query")
VECTOR_COLUMN = "embedding"

Row = dict[str, Any]
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
    schema
        The columns of a Parquet output but for the vectors; None for other outputs.
    """

    rows: int
    column: str
    schema: pa.Schema | None = None


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
    check_source(source)
    _check_suffix("output", target, OUTPUTS)
    if target.exists() and target.samefile(source):
        raise UserError(f"{target} is the input itself: choose another output")
    check_file_free(target, overwrite=overwrite)
    return look_over(source, column, with_schema=target.suffix == ".parquet")


def check_source(source: Path) -> None:
    """Raise a `UserError` unless the input is there and of a known form."""
    if not source.is_file():
        nearby = [entry.name for entry in source.parent.iterdir()] if source.parent.is_dir() else []
        raise UserError(f"input {source} does not exist.{did_you_mean(source.name, nearby)}")
    _check_suffix("input", source, _INPUTS)


def _check_suffix(what: str, path: Path, known: tuple[str, ...]) -> None:
    if path.suffix not in known:
        raise UserError(f"{what} {path} ends in '{path.suffix}': expected {', '.join(known)}")


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
        ``.txt`` with one text a line, ``.jsonl`` or ``.parquet``. Blank lines are skipped.
    target
        ``.npy`` (float32 [rows, dims]), or ``.parquet`` or ``.jsonl`` with the input's columns and one
        more, ``embedding``; an older column of that name is replaced.
    column
        The column of texts; by default ``text`` or another usual name, or the only one.
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
        chunks = ([row for _, row in numbered] for numbered in row_chunks(source))
        embedded = embedded_chunks(engine, chunks, survey.column, wanted, prompt_name, bar)
        WRITERS[target.suffix](temporary, embedded, survey, wanted.dims)
    return survey.rows


def read_texts(source: str | os.PathLike[str], *, column: str | None = None) -> list[str]:
    """Return every text of a file, in order.

    Parameters
    ----------
    source
        ``.txt`` with one text a line, ``.jsonl`` or ``.parquet``. Blank lines are skipped.
    column
        The column of texts; by default ``text`` or another usual name, or the only one.

    Raises
    ------
    UserError
        If the file, the column or a text is not usable.
    """
    path = Path(source)
    check_source(path)
    name = look_over(path, column, with_schema=False).column
    return [row[name] for numbered in row_chunks(path) for _, row in numbered]


def embedded_chunks(
    engine: Engine,
    chunks: Iterable[list[Row]],
    column: str,
    size: Size,
    prompt_name: str | None,
    bar: Any,
    prompt: str | None = None,
) -> Iterator[Chunk]:
    """Yield (rows, vectors float32 [rows, dims]) for chunks of rows, one chunk in memory at a time."""
    for rows in chunks:
        texts = [row[column] for row in rows]
        yield rows, engine.embed(texts, size, prompt_name=prompt_name, prompt=prompt)
        bar.update(len(rows))


def progress(rows: int, show: bool) -> Any:
    """Return a progress bar over so many texts."""
    from tqdm.auto import tqdm

    return tqdm(total=rows, desc="Encoding", unit=" texts", disable=not show)


def look_over(source: Path, column: str | None, *, with_schema: bool) -> Survey:
    """Read the whole input once: see that every row has a text, and which columns there are."""
    total, name = 0, ""
    schemas = [_parquet(source).schema_arrow] if source.suffix == ".parquet" and with_schema else []
    for numbered in row_chunks(source):
        name = name or text_column(numbered[0][1], column, source)
        for place, row in numbered:
            _check_text(row.get(name), name, source, place)
        total += len(numbered)
        if with_schema and source.suffix != ".parquet":
            schemas.append(_schema([row for _, row in numbered], source))
    if total == 0:
        raise UserError(f"{source} is empty: expected at least one text")
    return Survey(total, name, _joined(schemas, source) if with_schema else None)


def _schema(rows: list[Row], source: Path) -> pa.Schema:
    """Return the columns of all rows: a later row may have more than the first."""
    names = dict.fromkeys(name for row in rows for name in row)
    with _as_parquet(source):
        return pa.schema({name: pa.infer_type([row.get(name) for row in rows]) for name in names})


def _joined(schemas: list[pa.Schema], source: Path) -> pa.Schema:
    with _as_parquet(source):
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    return pa.schema([field for field in schema if field.name != VECTOR_COLUMN])


@contextmanager
def _as_parquet(file: Path) -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{file} does not fit into Parquet: {reason}; choose a .jsonl output") from error


def _check_text(text: Any, column: str, source: Path, place: int) -> None:
    if not isinstance(text, str) or not text.strip():
        unit = "row" if source.suffix == ".parquet" else "line"
        raise UserError(
            f"{source} {unit} {place}: column '{column}' is {text!r}: expected a text that is not empty"
        )


def text_column(row: Row, column: str | None, source: Path) -> str:
    """Return the column of texts: the named one, a usual one, or the only one with texts."""
    names = list(row)
    if column is not None:
        if column not in row:
            raise UserError(
                f"{source} has no column '{column}': it has {', '.join(names)}.{did_you_mean(column, names)}"
            )
        return column
    usual = [name for name in _USUAL_COLUMNS if name in row]
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if usual or len(texts) == 1:
        return (usual or texts)[0]
    raise UserError(f"{source}: which column holds the texts? Name one of {', '.join(names)} with --column")


# --- reading -------------------------------------------------------------------------------------


def row_chunks(source: Path) -> Iterator[list[tuple[int, Row]]]:
    """Yield the rows with their places in the file, a chunk at a time."""
    rows = _parquet_rows(source) if source.suffix == ".parquet" else _line_rows(source)
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


def _parquet(source: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source} is not a Parquet file: {str(error).splitlines()[0]}") from error


def _parquet_rows(source: Path) -> Iterator[tuple[int, Row]]:
    rows = (row for batch in _parquet(source).iter_batches(_CHUNK) for row in batch.to_pylist())
    yield from enumerate(rows, start=1)


def _line_rows(source: Path) -> Iterator[tuple[int, Row]]:
    # Only a line feed ends a line, and the mark that some editors put first is no part of a text.
    try:
        with source.open(encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _row(line, number, source)
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8 text ({error.reason}): save it as UTF-8") from error


def _row(line: str, number: int, source: Path) -> Row:
    if source.suffix == ".txt":
        return {"text": line.rstrip("\r\n")}
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", str(error))
        raise UserError(
            f"{source} line {number} is not JSON: {reason}; expected one object a line"
        ) from error
    if not isinstance(row, dict):
        raise UserError(
            f'{source} line {number} is not a JSON object: expected lines such as {{"text": "…"}}'
        )
    if "\\ud" in line.lower():
        _check_unicode(row, number, source)
    return row


def _check_unicode(row: Row, number: int, source: Path) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{source} line {number} holds half a surrogate pair: remove it") from error


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
                # Parquet holds dates and the like, which JSON writes as text.
                line = json.dumps({**row, VECTOR_COLUMN: vector.tolist()}, ensure_ascii=False, default=str)
                out.write(line + "\n")


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


MANIFEST = "manifest.json"
ROWS_PER_SHARD = 65536
"""Texts a shard: some tens of megabytes, and at most minutes of work that a kill can cost."""

_HASHED_BYTES = 8192
_PROBE = "Which model, at which size and in which precision, made these vectors?"


@dataclass(frozen=True)
class Shards:
    """What a run leaves in its folder.

    Parameters
    ----------
    rows
        Texts in all.
    shards
        Files in all.
    found
        Files that an earlier run had finished.
    """

    rows: int
    shards: int
    found: int


def check_folder(
    source: str | Path,
    folder: str | Path,
    suffix: str = ".parquet",
    *,
    column: str | None = None,
    overwrite: bool = False,
) -> Survey:
    """Look over the input and see that the folder may be written; call it before a model is loaded.

    Parameters
    ----------
    source, folder, suffix, column, overwrite
        As in `encode_shards`.

    Raises
    ------
    UserError
        If a file, the column or a text is not usable, or the folder holds something else.
    """
    source, folder = Path(source), Path(folder)
    check_source(source)
    if suffix not in OUTPUTS:
        raise UserError(f"shards cannot end in '{suffix}': expected {', '.join(OUTPUTS)}")
    if not (folder / MANIFEST).is_file():
        check_free(folder, overwrite=overwrite, inputs=[source])
    return look_over(source, column, with_schema=suffix == ".parquet")


@dataclass(frozen=True)
class Job:
    """All that it takes to write any shard of a run: small, and the same in every process.

    Parameters
    ----------
    source, folder, suffix
        As in `encode_shards`.
    survey
        What one look over the input told.
    size
        The size of the vectors.
    rows_per_shard
        Texts a shard.
    prompt_name, prompt
        As in `Engine.embed`.
    """

    source: Path
    folder: Path
    suffix: str
    survey: Survey
    size: Size
    rows_per_shard: int
    prompt_name: str | None = None
    prompt: str | None = None

    @property
    def shards(self) -> int:
        """How many shards the run has."""
        return -(-self.survey.rows // self.rows_per_shard)

    def path(self, number: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"part-{number:05d}{self.suffix}"

    def rows(self, number: int) -> int:
        """Return how many texts a shard has."""
        return min(self.rows_per_shard, self.survey.rows - number * self.rows_per_shard)

    def missing(self, part: tuple[int, int] = (1, 1)) -> list[int]:
        """Return the shards of a part that are not written yet."""
        return [number for number in self.of(part) if not self.path(number).is_file()]

    def of(self, part: tuple[int, int]) -> range:
        """Return the shards of the i-th of n parts, counted from 1."""
        return range(part[0] - 1, self.shards, part[1])


class ShardWriter:
    """Writes shards of a job, quickest in ascending order: the input is then read once.

    Parameters
    ----------
    engine
        The engine.
    job
        The run.
    """

    def __init__(self, engine: Engine, job: Job) -> None:
        self.engine, self.job = engine, job
        self._rows: Iterator[Row] = iter(())
        self._next = -1

    def write(self, number: int, bar: Any = None) -> int:
        """Write a shard unless it is there, and return how many texts were embedded for it."""
        job, path = self.job, self.job.path(number)
        if path.is_file():
            return 0
        count = job.rows(number)
        chunks = _chunked(islice(self._rows_from(number), count))
        with staged_file(path) as temporary, progress(count, False) as silent:
            embedded = embedded_chunks(
                self.engine,
                chunks,
                job.survey.column,
                job.size,
                job.prompt_name,
                silent if bar is None else bar,
                job.prompt,
            )
            WRITERS[job.suffix](temporary, embedded, replace(job.survey, rows=count), job.size.dims)
        self._next = number + 1
        return count

    def _rows_from(self, number: int) -> Iterator[Row]:
        """Return the rows of the input from a shard on."""
        if not 0 <= self._next <= number:
            self._rows = (row for numbered in row_chunks(self.job.source) for _, row in numbered)
            self._next = 0
        _skip(self._rows, (number - self._next) * self.job.rows_per_shard)
        # Until this shard is written whole, nobody knows where the rows stand.
        self._next = -1
        return self._rows


Run = Callable[[Job, list[int], Any], None]
"""Writes the given shards of a job somewhere else, and counts their texts on the bar."""


def encode_shards(
    engine: Engine,
    source: str | Path,
    folder: str | Path,
    *,
    size: str | Size | None = None,
    suffix: str = ".parquet",
    rows_per_shard: int = ROWS_PER_SHARD,
    column: str | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
    part: tuple[int, int] = (1, 1),
    run: Run | None = None,
    overwrite: bool = False,
    show_progress_bar: bool = False,
) -> Shards:
    """Embed a corpus of any length into shards; call it again after a kill and it goes on.

    Parameters
    ----------
    engine
        The engine.
    source
        ``.txt`` with one text a line, ``.jsonl`` or ``.parquet``.
    folder
        Where the shards go: ``part-00000.parquet`` and so on, and ``manifest.json``.
    size, prompt_name, prompt
        As in `Engine.embed`.
    suffix
        ``".parquet"``, ``".jsonl"`` or ``".npy"``, as for the files of `encode_file`.
    rows_per_shard
        Texts a shard. Fewer lose less to a kill; more make fewer files.
    column
        The column of texts, if it is not recognised.
    part
        ``(i, n)``: write only the i-th of n parts, counted from 1: n processes anywhere write them all.
    run
        Writes the shards somewhere else, as `matryoshka2d.inference.ray_runner.on_ray` returns; here by default.
    overwrite
        Whether to begin anew where the folder is in use.
    show_progress_bar
        Whether to draw progress.

    Returns
    -------
    Shards
        Those of the part.

    Raises
    ------
    UserError
        If the input is not usable, or the folder holds shards of another input, model, size or precision.
    """
    source, folder = Path(source), Path(folder)
    check_part(part, overwrite=overwrite)
    survey = check_folder(source, folder, suffix, column=column, overwrite=overwrite)
    wanted = engine.size if size is None else Size.parse(size)
    job = Job(source.resolve(), folder.resolve(), suffix, survey, wanted, rows_per_shard, prompt_name, prompt)
    _begin(folder, _manifest(job, engine), overwrite=overwrite, alone=part[1] == 1)
    own, missing = job.of(part), job.missing(part)
    rows = sum(map(job.rows, own))
    with progress(rows, show_progress_bar) as bar:
        bar.update(rows - sum(map(job.rows, missing)))
        if run is not None:
            run(job, missing, bar)
        else:
            writer = ShardWriter(engine, job)
            for number in missing:
                writer.write(number, bar)
    return Shards(rows, len(own), len(own) - len(missing))


def check_part(part: tuple[int, int], *, overwrite: bool = False) -> None:
    """Raise a `UserError` unless this is one of n parts, and none that would remove the others'."""
    number, of = part
    if not 1 <= number <= of:
        raise UserError(
            f"shard {number}/{of} cannot be: expected 1/{max(of, 1)} to {max(of, 1)}/{max(of, 1)}"
        )
    if of > 1 and overwrite:
        raise UserError("--overwrite would remove what the others wrote: empty the folder first")


def _manifest(job: Job, engine: Engine) -> dict[str, Any]:
    """Return what makes a run: two runs that differ in none of it write the same shards."""
    vectors = engine.embed([_PROBE], job.size, prompt_name=job.prompt_name, prompt=job.prompt)
    return {
        "source": job.source.name,
        "source_hash": _hash(job.source),
        "rows": job.survey.rows,
        "rows_per_shard": job.rows_per_shard,
        "column": job.survey.column,
        "size": str(job.size),
        "engine": engine.name,
        "precision": engine.precision,
        "prompt_name": job.prompt_name,
        "suffix": job.suffix,
        "vectors": hashlib.sha256(vectors.tobytes()).hexdigest(),
    }


def _begin(folder: Path, manifest: dict[str, Any], *, overwrite: bool, alone: bool) -> None:
    """Write the manifest into a new folder, or see that the one in the folder says the same."""
    path = folder / MANIFEST
    if path.is_file() and not overwrite:
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in manifest if before.get(name) != manifest[name]]
        if other:
            was = ", ".join(f"{name} was {before.get(name)}" for name in other)
            raise UserError(
                f"{folder} holds shards of another run ({was}): choose another output or pass --overwrite"
            )
    elif folder.is_dir():
        for entry in folder.glob("part-*"):
            entry.unlink()
    # What a kill leaves: the beginning of a shard under a temporary name. Others may be at work on theirs.
    for entry in folder.glob(".*.tmp-*") if alone else ():
        shutil.rmtree(entry, ignore_errors=True)
    with staged_file(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _hash(source: Path) -> str:
    with source.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _skip(rows: Iterator[Row], count: int) -> None:
    for _ in islice(rows, count):
        pass


def _chunked(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, _HASHED_BYTES)):
        yield chunk


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
