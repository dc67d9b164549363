"""The results of a plan: a few small files in one folder, complete enough to be compared with new runs.

``runs.parquet`` has a row for each run: what it is, what it cost, on which machine. ``scores.parquet`` has a
row for each run, task and size: the score of every test set, and how far the mean over the sets moves on each
resample of the sentence pairs or queries. The pairs of a resample are the same for every run
(`matryoshka2d.evaluation.bootstrap_spearman`), so that this is all that a comparison needs of a run.
``intervals.parquet`` holds the intervals that a report has computed; see `comparisons`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray

from matryoshka2d import Grid, Size, UserError
from matryoshka2d.files import staged_file

PLAN_FILE = "plan.json"
CHOICE_FILE = "dev-choice.json"
INTERVALS_FILE = "intervals.parquet"
_RUNS_FILE, _SCORES_FILE = "runs.parquet", "scores.parquet"

PUBLISHED_RESAMPLES = 250
"""Resamples kept beside the scores: they tell a 95% bound to about a tenth of its width."""

_POINT = 100
"""Deviations are kept as whole hundredths of a point."""

_WHICH = ("method", "backbone", "data", "seed", "size")

_RUNS = pa.schema(
    [
        *((name, pa.int64() if name == "seed" else pa.string()) for name in _WHICH),
        ("key", pa.string()),
        ("tasks", pa.string()),
        ("facts", pa.string()),
    ]
)
_SCORES = pa.schema(
    [
        ("key", pa.string()),
        ("task", pa.string()),
        ("size", pa.string()),
        ("score", pa.float64()),
        ("sets", pa.map_(pa.string(), pa.float32())),
        ("deviations", pa.list_(pa.int16())),
    ]
)


@dataclass(frozen=True)
class Resampled:
    """The scores of one run on one task, means over the sets, on all pairs and on resamples of them.

    Parameters
    ----------
    score
        Float64 [sizes], times 100.
    deviations
        Float [resamples, sizes]: the score on a resample minus the score on all pairs.
    """

    score: NDArray[np.float64]
    deviations: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Result:
    """One run.

    Parameters
    ----------
    method, backbone, data, seed, size
        Which run: names of the plan; `size` is that of a separate model, else empty.
    key
        Of everything that the run was made and measured with.
    grids
        Task → grid.
    facts
        Everything else, as JSON values: options, command, cost, machine, date, versions.
    """

    method: str
    backbone: str
    data: str
    seed: int
    size: str
    key: str
    grids: Mapping[str, Grid]
    facts: Mapping[str, Any]

    @property
    def which(self) -> tuple[str | int, ...]:
        """What tells it from the other runs of its plan."""
        return tuple(getattr(self, name) for name in _WHICH)


class Results:
    """The results of one plan.

    Parameters
    ----------
    folder
        The plan's folder of results.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def read(self) -> list[Result]:
        """Return all results, by name.

        Raises
        ------
        UserError
            If there is no such folder, no result in it, or a file is not one of results.
        """
        if not self.folder.is_dir():
            raise UserError(
                f"{self.folder} is not a folder: expected results of `matryoshka2d-reproduce run`"
            )
        runs = self._rows(_RUNS_FILE, _RUNS)
        if not runs:
            raise UserError(f"no result in {self.folder}: run `matryoshka2d-reproduce run PLAN` first")
        scores: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in self._rows(_SCORES_FILE, _SCORES, ("key", "task", "size", "sets")):
            scores.setdefault((row["key"], row["task"]), []).append(row)
        return [_result(row, scores) for row in sorted(runs, key=_order)]

    def keys(self) -> dict[tuple[str | int, ...], str]:
        """Return the key of every run that is there."""
        rows = self._rows(_RUNS_FILE, _RUNS, (*_WHICH, "key"))
        return {tuple(row[name] for name in _WHICH): row["key"] for row in rows}

    def resampled(self, key: str, task: str) -> Resampled:
        """Return the resampled scores that are kept of a run."""
        table = self._table(_SCORES_FILE, _SCORES, filters=[("key", "=", key), ("task", "=", task)])
        flat = table["deviations"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return Resampled(
            table["score"].to_numpy(), flat.astype(np.float64).reshape(len(table), -1).T / _POINT
        )

    def add(self, result: Result, resampled: Mapping[str, Resampled]) -> None:
        """Add a run, in place of an earlier one of the same name; task → its resampled scores."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            runs = [row for row in self._rows(_RUNS_FILE, _RUNS) if _which(row) != result.which]
            runs.append(_run_row(result))
            known = self._table(_SCORES_FILE, _SCORES)
            wanted = pa.array({row["key"] for row in runs} - {result.key}, pa.string())
            kept = known.filter(pc.is_in(known["key"], wanted))
            tables = [kept, *(_score_rows(result, task, one) for task, one in resampled.items())]
            # Scores first: a run counts as done once it stands in the table of runs.
            write_table(self.folder / _SCORES_FILE, pa.concat_tables(tables))
            write_table(self.folder / _RUNS_FILE, pa.Table.from_pylist(runs, _RUNS))

    def _rows(
        self, name: str, schema: pa.Schema, columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._table(name, schema, columns).to_pylist()
        return rows

    def _table(
        self,
        name: str,
        schema: pa.Schema,
        columns: Sequence[str] | None = None,
        filters: Any = None,
    ) -> pa.Table:
        path = self.folder / name
        if not path.is_file():
            return schema.empty_table()
        return read_table(path, list(columns) if columns else None, filters)


def _which(row: Mapping[str, Any]) -> tuple[str | int, ...]:
    return tuple(row[name] for name in _WHICH)


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return how results are sorted: by backbone and data, then by name; untrained ones last."""
    name = "-".join([row["method"], *([row["size"]] if row["size"] else []), str(row["seed"])])
    return row["backbone"], not row["data"], row["data"], re.sub(r"[^\w.+-]+", "-", name)


def _result(row: Mapping[str, Any], scores: Mapping[tuple[str, str], list[dict[str, Any]]]) -> Result:
    grids = {}
    for task, about in json.loads(row["tasks"]).items():
        cells = scores[row["key"], task]
        sets = {
            name: tuple(round(float(dict(cell["sets"])[name]), 4) for cell in cells)
            for name, _ in cells[0]["sets"]
        }
        grids[task] = Grid(
            tuple(Size.parse(cell["size"]) for cell in cells), sets, name=row["method"], **about
        )
    own = {name: row[name] for name in (*_WHICH, "key")}
    return Result(**own, grids=grids, facts=json.loads(row["facts"]))


def _run_row(result: Result) -> dict[str, Any]:
    tasks = {
        task: {"metric": grid.metric, "cut": grid.cut, "details": dict(grid.details)}
        for task, grid in result.grids.items()
    }
    own = {name: getattr(result, name) for name in (*_WHICH, "key")}
    return {**own, "tasks": _json(tasks), "facts": _json(dict(result.facts))}


def _score_rows(result: Result, task: str, resampled: Resampled) -> pa.Table:
    grid = result.grids[task]
    count = len(grid.sizes)
    hundredths = np.rint(_POINT * resampled.deviations[:PUBLISHED_RESAMPLES].T)
    missing = np.isnan(hundredths)
    flat = pa.array(np.where(missing, 0, hundredths).ravel(), mask=missing.ravel(), type=pa.float64()).cast(
        pa.int16()
    )
    sets = [[(name, round(values[i], 4)) for name, values in grid.scores.items()] for i in range(count)]
    columns = {
        "key": pa.array([result.key] * count),
        "task": pa.array([task] * count),
        "size": pa.array(map(str, grid.sizes)),
        "score": pa.array(resampled.score),
        "sets": pa.array(sets, _SCORES.field("sets").type),
        "deviations": pa.ListArray.from_arrays(
            np.arange(count + 1, dtype=np.int32) * hundredths.shape[1], flat
        ),
    }
    return pa.table(columns).cast(_SCORES)


def _json(values: Any) -> str:
    return json.dumps(values, ensure_ascii=False)


# --- files -----------------------------------------------------------------------------------------------


def read_table(path: Path, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """Read a Parquet table.

    Raises
    ------
    UserError
        If the file is no such table.
    """
    try:
        return pq.read_table(path, columns=columns, filters=filters, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is damaged: delete it and run again") from error


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet table in one step."""
    with staged_file(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=[name for name in table.column_names if name in ("key", "task", "size")],
            column_encoding={
                name: "BYTE_STREAM_SPLIT"
                for name in ("deviations.list.element", "sets.key_value.value", "score")
                if name.split(".")[0] in table.column_names
            },
        )


def write_json(path: Path, values: Any) -> None:
    """Write JSON values in one step, indented."""
    with staged_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON values, or None if the file is not there.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run again") from error


# --- the cache: every pair's score -------------------------------------------------------------------------


def scores_file(cache: str | Path, key: str) -> Path:
    """Return where the scores of each pair and query of a run are kept."""
    return Path(cache) / "scores" / f"{key}.npz"


def write_scores(
    path: Path,
    scores: Mapping[str, Mapping[str, NDArray[np.float32]]],
    gold: Mapping[str, NDArray[np.float64]],
) -> None:
    """Write task → set → [pairs, sizes] and the gold of the sets that have one."""
    arrays: dict[str, Any] = {f"gold/{name}": values for name, values in gold.items()}
    for task, sets in scores.items():
        arrays |= {f"scores/{task}/{name}": values for name, values in sets.items()}
    with staged_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_scores(path: Path, task: str) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return set → [pairs, sizes] of one task, and set → gold [pairs] where the task has gold."""
    with np.load(path) as arrays:
        start = f"scores/{task}/"
        names = [name.removeprefix(start) for name in arrays.files if name.startswith(start)]
        scores = {name: arrays[start + name] for name in names}
        gold = {name: arrays[f"gold/{name}"] for name in names if f"gold/{name}" in arrays.files}
    return scores, gold
