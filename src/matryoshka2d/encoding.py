"""A file of texts → a file of vectors, chunk by chunk, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.files import staged_file

_CHUNK = 8192
_INPUTS = (".txt", ".jsonl", ".parquet")
_OUTPUTS = (".npy", ".parquet", ".jsonl")
_USUAL_COLUMNS = ("text", "sentence", "content", "body", "passage", "document", "query")
VECTOR_COLUMN = "embedding"

Row = dict[str, Any]
Chunk = tuple[list[Row], np.ndarray]


def check_files(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Raise a `UserError` unless the input can be read and the output may be written."""
    if not source.is_file():
        nearby = [entry.name for entry in source.parent.iterdir()] if source.parent.is_dir() else []
        raise UserError(f"input {source} does not exist.{did_you_mean(source.name, nearby)}")
    for path, known, what in ((source, _INPUTS, "input"), (target, _OUTPUTS, "output")):
        if path.suffix not in known:
            raise UserError(f"{what} {path} ends in '{path.suffix}': expected {', '.join(known)}")
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists already: choose another output or pass --overwrite")
    if target.exists() and target.samefile(source):
        raise UserError(f"{target} is the input itself: choose another output")


def encode_file(
    encoder: ElasticEncoder,
    source: str | Path,
    target: str | Path,
    *,
    column: str | None = None,
    prompt_name: str | None = None,
    batch_size: int = 64,
    overwrite: bool = False,
    show_progress_bar: bool = False,
) -> int:
    """Embed every text of a file at the encoder's size and write the vectors.

    Parameters
    ----------
    encoder
        The encoder; load it with a ``size`` to have vectors of that size.
    source
        ``.txt`` with one text a line, ``.jsonl`` or ``.parquet``.
    target
        ``.npy`` (float32 [rows, dims]), or ``.parquet`` or ``.jsonl`` with the input's columns and one
        more, ``embedding``.
    column
        The column of texts; by default ``text`` or another usual name, or the only one.
    prompt_name, batch_size, show_progress_bar
        As in `SentenceTransformer.encode`.
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
    check_files(source, target, overwrite=overwrite)
    total = _count(source)
    if total == 0:
        raise UserError(f"{source} is empty: expected at least one text")

    def chunks() -> Iterator[Chunk]:
        from tqdm.auto import tqdm

        with tqdm(total=total, desc="Encoding", unit=" texts", disable=not show_progress_bar) as bar:
            for rows in _read(source):
                texts = _texts(rows, column, source, first=bar.n)
                yield rows, _vectors(encoder, texts, prompt_name, batch_size)
                bar.update(len(rows))

    with staged_file(target, overwrite=overwrite) as temporary:
        _WRITERS[target.suffix](temporary, chunks(), total, encoder.size.dims)
    return total


def _vectors(
    encoder: ElasticEncoder, texts: list[str], prompt_name: str | None, batch_size: int
) -> np.ndarray:
    vectors = encoder.encode(
        texts, size=encoder.size, prompt_name=prompt_name, batch_size=batch_size, show_progress_bar=False
    )
    return np.asarray(vectors, dtype=np.float32)


def _count(source: Path) -> int:
    if source.suffix == ".parquet":
        return int(_parquet(source).metadata.num_rows)
    with source.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _parquet(source: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{source} is not a Parquet file: {str(error).splitlines()[0]}") from error


def _read(source: Path) -> Iterator[list[Row]]:
    if source.suffix == ".parquet":
        for batch in _parquet(source).iter_batches(_CHUNK):
            yield batch.to_pylist()
        return
    rows: list[Row] = []
    try:
        with source.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                rows.append(_row(line, number, source))
                if len(rows) == _CHUNK:
                    yield rows
                    rows = []
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if rows:
        yield rows


def _row(line: str, number: int, source: Path) -> Row:
    if source.suffix == ".txt":
        return {"text": line.rstrip("\r\n")}
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{source} line {number} is not JSON: {error.msg}; expected one object a line"
        ) from error
    if not isinstance(row, dict):
        raise UserError(
            f'{source} line {number} is not a JSON object: expected lines such as {{"text": "…"}}'
        )
    return row


def _texts(rows: list[Row], column: str | None, source: Path, first: int) -> list[str]:
    name = _text_column(rows[0], column, source)
    texts = [row.get(name) for row in rows]
    for offset, text in enumerate(texts, start=first + 1):
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{source} row {offset}: column '{name}' is {text!r}: expected a text that is not empty"
            )
    return [str(text) for text in texts]


def _text_column(row: Row, column: str | None, source: Path) -> str:
    names = list(row)
    if column is not None:
        if column not in row:
            raise UserError(
                f"{source} has no column '{column}': it has {', '.join(names)}.{did_you_mean(column, names)}"
            )
        return column
    texts = [name for name, value in row.items() if isinstance(value, str)]
    usual = [name for name in _USUAL_COLUMNS if name in texts]
    if usual or len(texts) == 1:
        return (usual or texts)[0]
    raise UserError(f"{source}: which column holds the texts? Name one of {', '.join(names)} with --column")


def _write_npy(path: Path, chunks: Iterator[Chunk], total: int, dims: int) -> None:
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(total, dims))
    start = 0
    for _, vectors in chunks:
        matrix[start : start + len(vectors)] = vectors
        start += len(vectors)
    matrix.flush()


def _write_jsonl(path: Path, chunks: Iterator[Chunk], *_: int) -> None:
    with path.open("w", encoding="utf-8") as out:
        for rows, vectors in chunks:
            for row, vector in zip(rows, vectors, strict=True):
                out.write(json.dumps({**row, VECTOR_COLUMN: vector.tolist()}, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, chunks: Iterator[Chunk], _: int, dims: int) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for rows, vectors in chunks:
            table = pa.Table.from_pylist(
                [{k: v for k, v in row.items() if k != VECTOR_COLUMN} for row in rows]
            )
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dims)
            table = table.append_column(VECTOR_COLUMN, column)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()


_WRITERS: dict[str, Callable[..., None]] = {
    ".npy": _write_npy,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
