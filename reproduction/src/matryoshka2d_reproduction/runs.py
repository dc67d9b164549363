"""Runs: what a plan comes down to, one model and its measurement each, and what was asked of it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matryoshka2d import Size, TrainingOptions, UserError
from matryoshka2d.errors import did_you_mean
from matryoshka2d.losses.strategies import make_strategy
from matryoshka2d.training import preset_of
from matryoshka2d_reproduction.plan import Method, Plan

NO_DATA = ""
"""The data of what is not trained."""


@dataclass(frozen=True)
class Run:
    """One model of a method, to be made and measured.

    Parameters
    ----------
    method, backbone, data
        Names in the plan; no data for what is not trained.
    seed
        Seed of the training.
    size
        The one size of a separate model; None for a model that has all sizes.
    options
        Options beside those of the plan: what was chosen on dev, or is tried there.
    limit
        Rows of every file, where a trial on dev uses fewer.
    """

    method: str
    backbone: str
    data: str
    seed: int
    size: Size | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None

    def __str__(self) -> str:
        words = [self.method, str(self.size or ""), f"seed {self.seed}", self.backbone, self.data]
        tried = ",".join(f"{key}={value}" for key, value in self.options.items())
        return " ".join(word for word in [*words, tried] if word)

    @property
    def which(self) -> tuple[str | int, ...]:
        """What tells its result from the others of the plan."""
        return self.method, self.backbone, self.data, self.seed, str(self.size or "")


Chosen = Mapping[tuple[str, str, str, str], Mapping[str, Any]]
"""(method, backbone, data, size or "") → options chosen on dev."""


def selected(plan: Plan, only: Sequence[str]) -> list[Method]:
    """Return the methods that were asked for, or all, in an order in which each follows what it needs.

    Raises
    ------
    UserError
        If a name is not a method of the plan.
    """
    for name in only:
        if name not in plan.methods:
            raise UserError(
                f"no method is called '{name}': expected one of {', '.join(plan.methods)}."
                f"{did_you_mean(name, plan.methods)}"
            )
    return [m for layer in layers(plan) for m in layer if not only or m.name in only]


def layers(plan: Plan) -> list[list[Method]]:
    """Return the methods in layers: each needs only methods of the layers before it."""
    done: set[str] = set()
    found: list[list[Method]] = []
    while len(done) < len(plan.methods):
        free = [
            m for m in plan.methods.values() if m.name not in done and done.issuperset(plan.references(m))
        ]
        found.append(free)
        done |= {method.name for method in free}
    return found


def needed(plan: Plan, methods: Iterable[Method]) -> set[str]:
    """Return the names of some methods and of all that they need, directly or not."""
    found: set[str] = set()
    waiting = [method.name for method in methods]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += plan.references(plan.methods[name])
    return found


def is_trained(plan: Plan, method: Method) -> bool:
    """Return whether a method's models depend on data and seed."""
    if method.kind in ("cut", "average"):
        return any(is_trained(plan, plan.methods[name]) for name in method.of)
    return method.kind != "untouched"


def runs_of(plan: Plan, method: Method, chosen: Chosen, seeds: Iterable[int] | None = None) -> list[Run]:
    """Return a method's runs: its seeds x backbones x data, and x sizes for separate models."""
    own_seeds = [s for s in method.seeds or plan.seeds if seeds is None or s in set(seeds)]
    trained = is_trained(plan, method)
    if not trained and method.cut != "random":
        own_seeds = own_seeds[:1]
    return [
        with_choice(Run(method.name, backbone, data, seed, size), chosen)
        for backbone in method.backbones or plan.backbones
        for data in ((method.data or plan.data) if trained else (NO_DATA,))
        for seed in own_seeds
        for size in (method.sizes or (None,))
    ]


def with_choice(run: Run, chosen: Chosen) -> Run:
    """Return a run with the options that were chosen for it on dev, if any were."""
    place = (run.method, run.backbone, run.data, str(run.size or ""))
    return dataclasses.replace(run, options=chosen.get(place, {}))


def trials_of(plan: Plan, method: Method) -> list[Run]:
    """Return the runs that are tried on dev before a method's options are chosen."""
    if method.choose is None:
        return []
    choice = method.choose
    return [
        Run(method.name, backbone, data, choice.seed, size, trial, choice.limit)
        for backbone in method.backbones or plan.backbones
        for data in method.data or plan.data
        for size in (method.sizes or (None,))
        for trial in choice.trials(size)
    ]


def options_of(plan: Plan, run: Run) -> dict[str, Any]:
    """Return the training options of a run: the plan's, the method's, and those chosen or tried.

    Nothing is logged unless a plan asks for it: a model's key is the content of its folder, and logs have
    times in them.
    """
    return {"report_to": "none", **plan.defaults, **plan.methods[run.method].options, **run.options}


_STRATEGY_OF_KIND = {
    "separate": "full",
    "fit": "full",
    "rotate": "full",
    "sentence-transformers": "matryoshka2d",
}
"""Kinds whose models are made in one way, whatever the default strategy is."""

_NOT_OF_A_METHOD = (
    "model",
    "data",
    "columns",
    "output",
    "limit",
    "seed",
    "checkpoints",
    "evaluations",
    "workers",
)


def effective_options(plan: Plan, run: Run) -> dict[str, Any]:
    """Return every training option as it takes effect: the package's defaults and presets are in it too.

    Runs are told apart by this, so that a changed default is a new run. What is empty or off is left out; a
    dropout of 0 is neither, for it is not what the model brings.
    """
    named = options_of(plan, run)
    kind = plan.methods[run.method].kind
    if kind in _STRATEGY_OF_KIND:
        named["strategy"] = _STRATEGY_OF_KIND[kind]
    options = TrainingOptions.from_mapping(named, f"method {run.method}")
    values = {**dataclasses.asdict(preset_of(options))}
    values |= {key: value for key, value in dataclasses.asdict(options).items() if value is not None}
    strategy = make_strategy(options.strategy, **options.strategy_options)
    values |= {"strategy": options.strategy, "strategy_options": repr(strategy)}
    if "model" in named:
        values["start"] = named["model"]
    fields = {field.name: field for field in dataclasses.fields(TrainingOptions)}
    usual_zeros = {name for name, field in fields.items() if field.default == 0}
    return {
        key: value
        for key, value in values.items()
        if key not in _NOT_OF_A_METHOD and (value or (_is_zero(value) and key not in usual_zeros))
    }


def _is_zero(value: Any) -> bool:
    """Return whether a value is the number 0, which `False` is not meant to be."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


# --- what was asked ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What to run of a plan, and where.

    Parameters
    ----------
    plan
        The plan.
    data_folder, results, cache
        Folders: of the data, of this plan's results, and of models and scores.
    source
        How the plan's file is called, for the commands in the results.
    only
        Methods to run; all if empty. What they need is trained in any case.
    seeds
        Seeds to run; all of the plan if None.
    jobs
        Runs side by side, each in a process of its own with one thread; 1 runs them here.
    keep_models
        Whether to keep models that no other method needs.
    """

    plan: Plan
    data_folder: str
    results: Path
    cache: Path
    source: str
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None
    jobs: int = 1
    keep_models: bool = False


def command_of(request: Request, run: Run) -> str:
    """Return the command that repeats a run."""
    words = ["matryoshka2d-reproduce", "run", request.source, "--data", "DATA"]
    return shlex.join([*words, "--only", run.method, "--seeds", str(run.seed)])


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
