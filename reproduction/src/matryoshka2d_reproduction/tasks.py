"""One piece of work of a plan, a trial or a run, here or in another process."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matryoshka2d_reproduction import machine
from matryoshka2d_reproduction.measuring import (
    DevSets,
    TestSets,
    dev_scores,
    measure,
    read_dev_sets,
    read_test_sets,
)
from matryoshka2d_reproduction.plan import TRAINED_KINDS, Method, Plan
from matryoshka2d_reproduction.replicates import keep_replicates
from matryoshka2d_reproduction.request import Request, command_of
from matryoshka2d_reproduction.results import Result, scores_file, write_json, write_scores
from matryoshka2d_reproduction.units import Unit, effective_options
from matryoshka2d_reproduction.workshop import Workshop


@dataclass(frozen=True)
class Task:
    """A trial or a run, with everything that a process needs to do it."""

    kind: str
    request: Request
    chosen: Mapping[tuple[str, str, str, str], Mapping[str, Any]]
    unit: Unit
    key: str

    def __call__(self) -> Any:
        """Do it, and return the trial's entry or the run's result."""
        shop = Workshop(
            self.request.plan, self.request.data_folder, self.request.runs, chosen=dict(self.chosen)
        )
        return (_trial if self.kind == "trial" else _run)(self, shop)


def _trial(task: Task, shop: Workshop) -> dict[str, Any]:
    unit = task.unit
    made = shop.model(unit)
    sets: DevSets = read_dev_sets(shop, read_test_sets(shop).sts)
    scores = dev_scores(shop, unit, made, sets)
    return {
        "name": str(unit),
        "method": unit.method,
        "backbone": unit.backbone,
        "data": unit.data,
        "size": str(unit.size or ""),
        "seed": unit.seed,
        "limit": unit.limit or shop.plan.data[unit.data].limit,
        "options": dict(unit.options),
        "scores": scores,
        "score": round(statistics.fmean(scores.values()), 4),
        "cost": dict(made.cost),
        "key": task.key,
    }


def _run(task: Task, shop: Workshop) -> Result:
    request, unit = task.request, task.unit
    made = shop.model(unit)
    sets: TestSets = read_test_sets(shop)
    with machine.measured() as cost:
        found = measure(shop, unit, made, sets)
    write_scores(scores_file(request.runs, task.key), found.scores, found.gold)
    spent = {
        "train_seconds": made.cost.get("train_seconds", 0.0),
        "train_peak_memory_mb": made.cost.get("peak_memory_mb", 0),
        "evaluate_seconds": round(cost.seconds, 1),
        "evaluate_peak_memory_mb": round(cost.peak_memory_mb),
    }
    method = request.plan.methods[unit.method]
    facts = {
        "name": str(unit),
        "kind": method.kind,
        "options": _options(request.plan, unit, method),
        "command": command_of(request, unit),
        "cost": spent,
        "trained_on": made.cost.get("machine", {}),
        "measured_on": machine.facts(),
        "mean_of_sizes": {task: round(grid.mean_over_sizes(), 4) for task, grid in found.grids.items()},
    }
    result = Result(
        unit.method, unit.backbone, unit.data, unit.seed, str(unit.size or ""), task.key, found.grids, facts
    )
    keep_replicates(result, request.results, request.runs)
    write_json(request.results / unit.file, result.to_dict())
    needed = any(method.name in request.plan.references(other) for other in request.plan.methods.values())
    if not needed and not request.keep_models:
        shop.forget(unit)
    return result


def _options(plan: Plan, unit: Unit, method: Method) -> dict[str, Any]:
    """Return what a run was made with, in the words of the plan: no path of this machine is among them."""
    own: dict[str, Any] = {
        "of": list(method.of),
        "cut": method.cut,
        "weights": list(method.weights),
        "loss_options": dict(method.loss_options),
    }
    if method.kind in TRAINED_KINDS:
        own |= effective_options(plan, unit)
    if unit.data:
        data = plan.data[unit.data]
        own |= {"files": list(data.files), "limit": unit.limit or data.limit}
    own["backbone"] = dataclasses.asdict(plan.backbones[unit.backbone])
    return {key: value for key, value in own.items() if value not in ("", [], {}, (), None)}
