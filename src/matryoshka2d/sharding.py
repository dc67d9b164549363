"""A corpus → a folder of shards, which a killed run goes on with where it stopped.

Every shard is a file of its own, written under a temporary name and then renamed, so that a shard is there
whole or not at all. Batches never cross shards: a run that was killed and resumed leaves the same bytes as
one that was not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.data.rows import Row, source_files
from matryoshka2d.encoding import (
    OUTPUTS,
    WRITERS,
    Survey,
    embedded_chunks,
    look_over,
    progress,
    row_chunks,
)
from matryoshka2d.errors import UserError
from matryoshka2d.files import check_free, staged_file
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.inference import Engine

MANIFEST = "manifest.json"
ROWS_PER_SHARD = 65536
"""Texts a shard: some tens of megabytes, and at most minutes of work that a kill can cost."""

_CHUNK = 8192
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
    if suffix not in OUTPUTS:
        raise UserError(f"shards cannot end in '{suffix}': expected {', '.join(OUTPUTS)}")
    if not (folder / MANIFEST).is_file():
        check_free(folder, overwrite=overwrite, inputs=[source])
    return look_over(source, column, with_schema=suffix == ".parquet")


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
    overwrite: bool = False,
    show_progress_bar: bool = False,
) -> Shards:
    """Embed a corpus of any length into shards; call it again after a kill and it goes on.

    Parameters
    ----------
    engine
        The engine.
    source
        As in `encode_file`.
    folder
        Where the shards go: ``part-00000.parquet`` and so on, and ``manifest.json``.
    size, prompt_name
        As in `Engine.embed`.
    suffix
        ``".parquet"``, ``".jsonl"`` or ``".npy"``, as for the files of `encode_file`.
    rows_per_shard
        Texts a shard. Fewer lose less to a kill; more make fewer files.
    column
        The column of texts, if it is not recognised.
    overwrite
        Whether to begin anew where the folder is in use.
    show_progress_bar
        Whether to draw progress.

    Returns
    -------
    Shards

    Raises
    ------
    UserError
        If the input is not usable, or the folder holds shards of another input, model, size or precision.
    """
    source, folder = Path(source), Path(folder)
    survey = check_folder(source, folder, suffix, column=column, overwrite=overwrite)
    wanted = engine.size if size is None else Size.parse(size)
    shards = -(-survey.rows // rows_per_shard)
    manifest = {
        "source": source.name,
        "source_hash": _hash(source),
        "rows": survey.rows,
        "rows_per_shard": rows_per_shard,
        "column": survey.column,
        "title": survey.title,
        "size": str(wanted),
        "engine": engine.name,
        "precision": engine.precision,
        "prompt_name": prompt_name,
        "suffix": suffix,
        "vectors": hashlib.sha256(
            engine.embed([_PROBE], wanted, prompt_name=prompt_name).tobytes()
        ).hexdigest(),
    }
    _begin(folder, manifest, overwrite=overwrite)
    found = 0
    rows = (row for chunk in row_chunks(source) for row in chunk)
    with progress(survey.rows, show_progress_bar) as bar:
        for number in range(shards):
            path = folder / f"part-{number:05d}{suffix}"
            count = min(rows_per_shard, survey.rows - number * rows_per_shard)
            if path.is_file():
                found += 1
                _skip(rows, count)
                bar.update(count)
                continue
            chunks = _chunked(islice(rows, count))
            with staged_file(path) as temporary:
                embedded = embedded_chunks(engine, chunks, survey, wanted, prompt_name, bar)
                WRITERS[suffix](temporary, embedded, replace(survey, rows=count), wanted.dims)
    return Shards(survey.rows, shards, found)


def _begin(folder: Path, manifest: dict[str, Any], *, overwrite: bool) -> None:
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
    # What a kill leaves: the beginning of a shard under a temporary name.
    for entry in folder.glob(".*.tmp-*"):
        shutil.rmtree(entry, ignore_errors=True)
    with staged_file(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _hash(source: Path) -> str:
    digest = hashlib.blake2b()
    for path in source_files(source):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:32]


def _skip(rows: Iterator[Row], count: int) -> None:
    for _ in islice(rows, count):
        pass


def _chunked(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk
