"""A corpus of any length → shards of vectors, each written whole or not at all, so that a killed run goes on.

Which shard holds which texts hangs on the input alone: the same files come out whoever writes them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from matryoshka2d.data.rows import Row, source_files
from matryoshka2d.errors import UserError
from matryoshka2d.files import check_free, staged_file
from matryoshka2d.inference.encoding import (
    OUTPUTS,
    WRITERS,
    Survey,
    embedded_chunks,
    look_over,
    progress,
    row_chunks,
)
from matryoshka2d.inference.engine import Engine
from matryoshka2d.size import Size

MANIFEST = "manifest.json"
ROWS_PER_SHARD = 65536
"""Texts a shard: some tens of megabytes, and at most minutes of work that a kill can cost."""

_ROWS_AT_ONCE = 8192
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
                job.survey,
                job.size,
                job.prompt_name,
                silent if bar is None else bar,
                number * job.rows_per_shard,
                job.prompt,
            )
            WRITERS[job.suffix](temporary, embedded, replace(job.survey, rows=count), job.size.dims)
        self._next = number + 1
        return count

    def _rows_from(self, number: int) -> Iterator[Row]:
        """Return the rows of the input from a shard on."""
        if not 0 <= self._next <= number:
            self._rows = (row for chunk in row_chunks(self.job.source) for row in chunk)
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
        As in `encode_file`.
    folder
        Where the shards go: ``part-00000.parquet`` and so on, and ``manifest.json``.
    size, prompt_name, prompt
        As in `Engine.embed`.
    suffix
        ``".parquet"``, ``".jsonl"`` or ``".npy"``, as for the files of `encode_file`.
    rows_per_shard
        Texts a shard. Fewer lose less to a kill; more make fewer files.
    column
        The column of texts, if it is not recognized.
    part
        ``(i, n)``: write only the i-th of n parts, counted from 1: n processes anywhere write them all.
    run
        Writes the shards somewhere else, as `inference.ray_runner.on_ray` returns; here by default.
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
        "title": job.survey.title,
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
    while chunk := list(islice(rows, _ROWS_AT_ONCE)):
        yield chunk
