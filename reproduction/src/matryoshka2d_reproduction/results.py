"""Results: one small JSON file a run, and beside the results the cosines that statistics read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import Grid
from matryoshka2d.files import staged_file

PLAN_FILE = "plan.json"
CHOICE_FILE = "dev-choice.json"
STATISTICS_FILE = "statistics.json"
_NOT_RUNS = (PLAN_FILE, CHOICE_FILE, STATISTICS_FILE)


@dataclass(frozen=True)
class Result:
    """One run, as its file holds it.

    Parameters
    ----------
    method, backbone, data, seed, size
        Which run: names of the plan; `size` is that of a separate model, else empty.
    key
        Of everything that the run was made and measured with.
    grids
        Task → grid.
    facts
        Everything else: options, commands, cost, machine, date, versions.
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
    def file(self) -> str:
        """The name of its file inside the folder of the plan's results."""
        return result_file(self.method, self.size, self.seed, self.backbone, self.data)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        own = {name: getattr(self, name) for name in ("method", "backbone", "data", "seed", "size", "key")}
        return {**own, **self.facts, "tasks": {task: grid.to_dict() for task, grid in self.grids.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Result:
        """Read what `to_dict` gives."""
        rest = dict(values)
        grids = {task: Grid.from_dict(grid) for task, grid in rest.pop("tasks").items()}
        own = {name: rest.pop(name) for name in ("method", "backbone", "data", "seed", "size", "key")}
        return cls(**own, grids=grids, facts=rest)


def result_file(method: str, size: str, seed: int, backbone: str, data: str) -> str:
    """Return the name of a run's result inside the folder of the plan's results.

    >>> result_file("separate", "1x32", 0, "minilm", "nli")
    'minilm/nli/separate-1x32-0.json'
    """
    name = "-".join([method, *([size] if size else []), str(seed)])
    parts = (re.sub(r"[^\w.+-]+", "-", part) for part in (backbone, data, name) if part)
    return "/".join(parts) + ".json"


def read_result(path: Path) -> Result:
    """Read one result.

    Raises
    ------
    UserError
        If the file is not a result.
    """
    try:
        return Result.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a result of `reproduce`: expected what it wrote, delete the file to run it again"
        ) from error


def read_results(folder: str | Path) -> list[Result]:
    """Read all results of a plan, by name.

    Raises
    ------
    UserError
        If there is no such folder, no result in it, or a file is not a result.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: expected results of `matryoshka2d reproduce`")
    files = sorted(file for file in root.rglob("*.json") if file.name not in _NOT_RUNS)
    if not files:
        raise UserError(f"no result in {root}: run `matryoshka2d reproduce PLAN` first")
    return [read_result(file) for file in files]


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


# --- what statistics read ------------------------------------------------------------------------------


def scores_file(runs: str | Path, key: str) -> Path:
    """Return where the scores of each pair and query of a run are kept."""
    return Path(runs) / "scores" / f"{key}.npz"


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
