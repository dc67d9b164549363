"""What `reproduce` was asked for, in the words of results: the plan, and the command of each run."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matryoshka2d_reproduction.plan import Plan
from matryoshka2d_reproduction.units import Unit


@dataclass(frozen=True)
class Request:
    """What `reproduce` was asked for.

    Parameters
    ----------
    plan
        The plan.
    data_folder, results, runs
        Folders: of the data, of this plan's results, and of models and scores.
    source
        How the plan's file is called, for the commands in the results.
    only
        Methods to run; all if empty. What they need is trained in any case.
    seeds
        Seeds to run; all of the plan if None.
    hours
        Start nothing that is not expected to be done by then; None for no bound.
    jobs
        Runs side by side, each in a process of its own with one thread; 1 runs them here.
    keep_models
        Whether to keep models that no other method needs.
    """

    plan: Plan
    data_folder: str
    results: Path
    runs: Path
    source: str
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None
    hours: float | None = None
    jobs: int = 1
    keep_models: bool = False


def command_of(request: Request, unit: Unit) -> str:
    """Return the command that repeats a run."""
    words = ["matryoshka2d", "reproduce", request.source, "--data", "DATA"]
    return shlex.join([*words, "--only", unit.method, "--seeds", str(unit.seed)])


def plan_facts(request: Request) -> dict[str, Any]:
    """Return what a report needs to know of a plan."""
    plan = request.plan
    return {
        "name": plan.name,
        "title": plan.title,
        "note": plan.note,
        "source": request.source,
        "sizes": [str(size) for size in plan.sizes],
        "precision": plan.precision,
        "methods": {
            m.name: {"kind": m.kind, "note": m.note, "sizes": [str(size) for size in m.sizes]}
            for m in plan.methods.values()
        },
        "compare": [list(pair) for pair in plan.compare],
        "claims": [dataclasses.asdict(claim) for claim in plan.claims],
        "reported": dict(plan.reported),
        "pictures": list(plan.pictures),
    }
