"""Running a plan: choose on dev, then make and measure every unit that is not there yet."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from matryoshka2d.errors import UserError
from matryoshka2d.experiments import machine
from matryoshka2d.experiments.expected import Expectation
from matryoshka2d.experiments.keys import key_of
from matryoshka2d.experiments.measuring import (
    DevSets,
    TestSets,
    dev_scores,
    measure,
    read_dev_sets,
    read_test_sets,
    sets_key,
)
from matryoshka2d.experiments.plan import TRAINED_KINDS, Method, Plan
from matryoshka2d.experiments.replicates import has_replicates, keep_replicates
from matryoshka2d.experiments.results import (
    CHOICE_FILE,
    PLAN_FILE,
    Result,
    read_json,
    read_result,
    read_results,
    scores_file,
    write_json,
    write_scores,
)
from matryoshka2d.experiments.units import (
    Unit,
    effective_options,
    layers,
    needed,
    selected,
    trials_of,
    units_of,
)
from matryoshka2d.experiments.workshop import Workshop

Say = Callable[[str], None]


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


@dataclass
class Outcome:
    """What `reproduce` did.

    Parameters
    ----------
    done, found
        Results made now, and those that were there already.
    left
        Units that did not fit into the hours.
    """

    done: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def reproduce(request: Request, say: Say = print) -> Outcome:
    """Run a plan.

    Parameters
    ----------
    request
        What to run.
    say
        Where notes go, a line each.

    Raises
    ------
    UserError
        If data are missing or an option is wrong; results that were there are untouched.
    """
    wanted = selected(request.plan, request.only)
    bench = Bench(request)
    outcome = Outcome()
    write_json(request.results / PLAN_FILE, plan_facts(request))
    say(bench.announcement(wanted))
    with _workers(request) as submit:
        # Methods of one layer need nothing of each other, so that all their runs may go side by side.
        for layer in layers(request.plan):
            bench.choose([m for m in layer if m.name in needed(request.plan, wanted)], submit, say)
            bench.run([m for m in layer if m in wanted], submit, say, outcome)
    return outcome


class Bench:
    """The state of a running plan: its sets, what was chosen, and how long things take."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.started = time.perf_counter()
        self.shop = Workshop(request.plan, request.data_folder, request.runs, chosen=read_choices(request))
        self.tests = read_test_sets(self.shop)
        self.tests_key = sets_key(self.tests)
        texts = sum(2 * len(one) for one in self.tests.sts)
        texts += sum(len(one.corpus) + len(one.judged) for one in self.tests.retrieval)
        try:
            earlier = read_results(request.results)
        except UserError:
            earlier = []
        self.expected = Expectation(self.shop, earlier, texts)

    # --- what there is to do ---------------------------------------------------------------------------

    def units(self, method: Method) -> list[Unit]:
        """Return the units of a method that were asked for."""
        return units_of(self.request.plan, method, self.shop.chosen, self.request.seeds)

    def result_key(self, unit: Unit) -> str:
        """Return the key of a unit's result: of its model and of what it is measured on."""
        plan = self.request.plan
        sizes = [str(size) for size in ([unit.size] if unit.size else plan.sizes)]
        cut = plan.methods[unit.method].cut
        fit = self.shop.data_key(unit.data, None) if cut == "pca" and unit.data else ""
        chance = unit.seed if cut == "random" else 0
        measured = [self.shop.key(unit), sizes, cut, fit, chance, self.tests_key]
        return key_of("result", *measured, *_if_not_fp32(plan))

    def is_done(self, unit: Unit, key: str) -> bool:
        """Return whether the result of a unit is there, with what intervals are read from."""
        path = self.request.results / unit.file
        if not path.is_file():
            return False
        result = read_result(path)
        return result.key == key and has_replicates(result, self.request.results, self.request.runs)

    def announcement(self, methods: Sequence[Method]) -> str:
        """Return how many runs there are and how long they will take."""
        plan, request = self.request.plan, self.request
        tried = {trial["key"] for trial in self._trials()}
        choosing = [m for m in plan.methods.values() if m.name in needed(plan, methods)]
        trials = [u for m in choosing for u in trials_of(plan, m) if self.trial_key(u) not in tried]
        units = [unit for method in methods for unit in self.units(method)]
        pending = [unit for unit in units if not self.is_done(unit, self.result_key(unit))]
        seconds = sum(self.expected.seconds(unit, trial=True) for unit in trials)
        seconds += sum(self.expected.seconds(unit) for unit in pending)
        hours = seconds / 3600 / request.jobs
        bound = "" if request.hours is None else f", bounded by {request.hours:g} hours"
        return (
            f"{plan.name}: {len(pending)} runs and {len(trials)} trials on dev to do, "
            f"{len(units) - len(pending)} runs are there already; about {hours:.2f} hours "
            f"expected with {request.jobs} at a time{bound}"
        )

    def fits(self, seconds: float) -> bool:
        """Return whether something that takes so long is done within the hours."""
        hours = self.request.hours
        return hours is None or time.perf_counter() - self.started + seconds <= 3600 * hours

    # --- dev -------------------------------------------------------------------------------------------

    def trial_key(self, unit: Unit) -> str:
        """Return the key of a trial on dev."""
        choice = self.request.plan.methods[unit.method].choose
        judged = str(unit.size or (choice.sizes if choice else "") or list(map(str, self.request.plan.sizes)))
        return key_of("trial", self.shop.key(unit), judged, self.dev_key, *_if_not_fp32(self.request.plan))

    @property
    def dev_key(self) -> Any:
        """What the dev sets are made of."""
        if not hasattr(self, "_dev_key"):
            self._dev_key = sets_key(read_dev_sets(self.shop, self.tests.sts))
        return self._dev_key

    def _trials(self) -> list[dict[str, Any]]:
        stored = read_json(self.request.results / CHOICE_FILE) or {}
        return list(stored.get("trials", []))

    def choose(self, methods: Sequence[Method], submit: Submit, say: Say) -> None:
        """Try what is to be chosen on dev, and write the choice down."""
        units = [unit for method in methods for unit in trials_of(self.request.plan, method)]
        done = {trial["key"] for trial in self._trials()}
        keys = [self.trial_key(unit) for unit in units]
        missing = [(u, k) for u, k in zip(units, keys, strict=True) if k not in done]
        for trial in submit(
            [(unit, self._try(unit, key)) for unit, key in missing],
            lambda unit: self.fits(self.expected.seconds(unit, trial=True)),
        ):
            self._note_trial(trial)
            say(f"dev {trial['score']:.2f}: {trial['name']}")
        self.shop.chosen.update(read_choices(self.request))
        self._forget_trials(units, methods)

    def _forget_trials(self, trials: Sequence[Unit], methods: Sequence[Method]) -> None:
        """Delete the models of trials, but for those that are also the models of runs."""
        plan, chosen = self.request.plan, self.shop.chosen
        runs = {self.shop.key(unit) for method in methods for unit in units_of(plan, method, chosen)}
        for unit in trials:
            if self.shop.key(unit) not in runs and not self.request.keep_models:
                self.shop.forget(unit)

    def _try(self, unit: Unit, key: str) -> Task:
        return Task("trial", self.request, dict(self.shop.chosen), unit, key)

    def _note_trial(self, trial: dict[str, Any]) -> None:
        """Add a trial to the page of choices, beside those that another process may have added meanwhile."""
        about = "Chosen on dev sets that share no pair with a test set. One seed: a choice, no result."
        self.request.runs.mkdir(parents=True, exist_ok=True)
        with FileLock(self.request.runs / f"{self.request.plan.name}.lock"):
            known = {one["key"]: one for one in self._trials()} | {trial["key"]: trial}
            page = {"about": about, "trials": list(known.values())}
            write_json(self.request.results / CHOICE_FILE, page)

    # --- test ------------------------------------------------------------------------------------------

    def run(self, methods: Sequence[Method], submit: Submit, say: Say, outcome: Outcome) -> None:
        """Make and measure the units of some methods that are not there yet."""
        pending: list[tuple[Unit, Task]] = []
        for method in methods:
            if self._is_undecided(method):
                outcome.left.append(f"{method.name}: not chosen on dev yet")
                say(f"left: {outcome.left[-1]}")
                continue
            for unit in self.units(method):
                key = self.result_key(unit)
                if self.is_done(unit, key):
                    outcome.found.append(str(unit))
                else:
                    pending.append((unit, Task("run", self.request, dict(self.shop.chosen), unit, key)))
        waiting = {str(unit): None for unit, _ in pending}
        for result in submit(pending, lambda unit: self.fits(self.expected.seconds(unit))):
            self.expected.learn(result)
            name = result.facts["name"]
            waiting.pop(name)
            outcome.done.append(name)
            means = ", ".join(f"{task} {grid.mean_over_sizes():.2f}" for task, grid in result.grids.items())
            cost = result.facts["cost"]
            say(f"{name}: {means} ({cost['train_seconds']:.0f} s + {cost['evaluate_seconds']:.0f} s)")
        for name in waiting:
            outcome.left.append(name)
            say(f"left: {name}")

    def _is_undecided(self, method: Method) -> bool:
        plan, tried = self.request.plan, {trial["key"] for trial in self._trials()}
        involved = [plan.methods[name] for name in needed(plan, [method])]
        return any(self.trial_key(unit) not in tried for one in involved for unit in trials_of(plan, one))


def _if_not_fp32(plan: Plan) -> list[str]:
    """Return what a key says of the precision: nothing of the usual one."""
    return [] if plan.precision == "fp32" else [plan.precision]


# --- one piece of work, here or in another process -------------------------------------------------------


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


Submit = Callable[[Sequence[tuple[Unit, Task]], Callable[[Unit], bool]], Iterator[Any]]


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
    }


def read_choices(request: Request) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """Return the best trial on dev of every method, backbone, data and size, of those that the plan names."""
    best: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for trial in (read_json(request.results / CHOICE_FILE) or {}).get("trials", []):
        if not _counts(trial, request.plan):
            continue
        place = (trial["method"], trial["backbone"], trial["data"], trial["size"])
        if place not in best or trial["score"] > best[place]["score"]:
            best[place] = trial
    return {place: trial["options"] for place, trial in best.items()}


def _counts(trial: Mapping[str, Any], plan: Plan) -> bool:
    """Return whether a trial is among those of the plan: its options, and as many rows."""
    method, data = plan.methods.get(trial["method"]), plan.data.get(trial["data"])
    if method is None or method.choose is None or data is None:
        return False
    rows = method.choose.limit or data.limit
    return trial["options"] in method.choose.trials() and trial["limit"] == rows


# --- here, or side by side -------------------------------------------------------------------------------


class _workers:  # noqa: N801 - used as a context, as a function would be
    """Give a function that does tasks, one after another here or several at a time in other processes."""

    def __init__(self, request: Request) -> None:
        self.jobs = request.jobs
        self.pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> Submit:
        if self.jobs == 1:
            return _in_turn
        os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes that are started from here on
        self.pool = concurrent.futures.ProcessPoolExecutor(
            self.jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
        )
        return self._side_by_side

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def _side_by_side(
        self, tasks: Sequence[tuple[Unit, Task]], fits: Callable[[Unit], bool]
    ) -> Iterator[Any]:
        assert self.pool is not None
        waiting = list(tasks)
        running: set[concurrent.futures.Future[Any]] = set()
        while waiting or running:
            while waiting and len(running) < self.jobs:
                unit, task = waiting.pop(0)
                if fits(unit):
                    running.add(self.pool.submit(task))
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                yield future.result()


def _in_turn(tasks: Sequence[tuple[Unit, Task]], fits: Callable[[Unit], bool]) -> Iterator[Any]:
    for unit, task in tasks:
        if fits(unit):
            yield task()


def _start_worker() -> None:
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
