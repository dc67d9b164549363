"""Running a plan: choose on dev, then make and measure every run that is not there yet."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import statistics
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from filelock import FileLock

from matryoshka2d import Size
from matryoshka2d_reproduction import machine
from matryoshka2d_reproduction.keys import key_of
from matryoshka2d_reproduction.measuring import (
    DevSets,
    dev_scores,
    measure,
    read_dev_sets,
    read_test_sets,
    resampled_scores,
    sets_key,
)
from matryoshka2d_reproduction.models import ModelStore
from matryoshka2d_reproduction.plan import TRAINED_KINDS, Method, Plan
from matryoshka2d_reproduction.results import (
    CHOICE_FILE,
    PLAN_FILE,
    Result,
    Results,
    read_json,
    scores_file,
    write_json,
    write_scores,
)
from matryoshka2d_reproduction.runs import (
    Request,
    Run,
    command_of,
    effective_options,
    layers,
    needed,
    plan_facts,
    runs_of,
    selected,
    trials_of,
)

Log = Callable[[str], None]


@dataclass
class Outcome:
    """What `reproduce` did.

    Parameters
    ----------
    done, found
        Results made now, and those that were there already.
    """

    done: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)


def reproduce(request: Request, log: Log = print) -> Outcome:
    """Run a plan.

    Parameters
    ----------
    request
        What to run.
    log
        Where notes go, a line each.

    Raises
    ------
    UserError
        If data are missing or an option is wrong; results that were there do not change.
    """
    wanted = selected(request.plan, request.only)
    involved = needed(request.plan, wanted)
    runner = PlanRunner(request, log)
    outcome = Outcome()
    write_json(request.results / PLAN_FILE, plan_facts(request))
    log(runner.announcement(wanted))
    with workers(request.jobs) as submit:
        # Methods of one layer need nothing of each other, so that all their runs may go side by side.
        for layer in layers(request.plan):
            runner.choose([m for m in layer if m.name in involved], submit)
            runner.run([m for m in layer if m in wanted], submit, outcome)
    return outcome


class PlanRunner:
    """The state of a running plan: its models, its sets, and what was chosen.

    Parameters
    ----------
    request
        What to run.
    log
        Where notes go, a line each.
    """

    def __init__(self, request: Request, log: Log = print) -> None:
        self.request = request
        self.log = log
        self.store = ModelStore(
            request.plan, request.data_folder, request.cache, chosen=read_choices(request)
        )
        self.tests = read_test_sets(self.store)
        self.tests_key = sets_key(self.tests)

    def announcement(self, methods: Sequence[Method]) -> str:
        """Return how many runs there are to do."""
        plan = self.request.plan
        involved = needed(plan, methods)
        trials = self._missing_trials([m for m in plan.methods.values() if m.name in involved])
        runs = [run for method in methods for run in self.runs(method)]
        done = self._done(runs)
        return (
            f"{plan.name}: {len(runs) - len(done)} runs and {len(trials)} trials on dev to do, "
            f"{len(done)} runs are there already"
        )

    # --- test ------------------------------------------------------------------------------------------

    def runs(self, method: Method) -> list[Run]:
        """Return the runs of a method that were asked for."""
        return runs_of(self.request.plan, method, self.store.chosen, self.request.seeds)

    def result_key(self, run: Run) -> str:
        """Return the key of a run's result: of its model and of what it is measured on."""
        plan = self.request.plan
        sizes = [str(size) for size in ([run.size] if run.size else plan.sizes)]
        cut = plan.methods[run.method].cut
        fit = self.store.data_key(run.data, None) if cut == "pca" and run.data else ""
        seed = run.seed if cut == "random" else 0
        measured = [self.store.key(run), sizes, cut, fit, seed, self.tests_key]
        return key_of("result", *measured, *_if_not_fp32(plan))

    def _done(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs whose results are there."""
        keys = Results(self.request.results).keys()
        return [run for run in runs if keys.get(run.which) == self.result_key(run)]

    def run(self, methods: Sequence[Method], submit: Submit, outcome: Outcome) -> None:
        """Make and measure the runs of some methods that are not there yet."""
        runs = [run for method in methods for run in self.runs(method)]
        done = self._done(runs)
        outcome.found += map(str, done)
        tasks = [self._task(measure_run, run, self.result_key(run)) for run in runs if run not in done]
        for result in submit(tasks):
            name, cost = result.facts["name"], result.facts["cost"]
            outcome.done.append(name)
            means = ", ".join(f"{task} {grid.mean_over_sizes():.2f}" for task, grid in result.grids.items())
            self.log(f"{name}: {means} ({cost['train_seconds']:.0f} s + {cost['evaluate_seconds']:.0f} s)")

    def _task(self, do: Callable[[Task, ModelStore], Any], run: Run, key: str) -> Task:
        return Task(do, self.request, dict(self.store.chosen), run, key)

    # --- dev -------------------------------------------------------------------------------------------

    def trial_key(self, run: Run) -> str:
        """Return the key of a trial on dev."""
        plan = self.request.plan
        choice = plan.methods[run.method].choose
        judged = str(run.size or (choice.sizes if choice else "") or list(map(str, plan.sizes)))
        return key_of("trial", self.store.key(run), judged, self.dev_key, *_if_not_fp32(plan))

    @cached_property
    def dev_key(self) -> Any:
        """What the dev sets are made of."""
        return sets_key(self.dev_sets)

    @cached_property
    def dev_sets(self) -> DevSets:
        """The dev sets, read when the first trial asks for them."""
        return read_dev_sets(self.store, self.tests.sts)

    def choose(self, methods: Sequence[Method], submit: Submit) -> None:
        """Try what is to be chosen on dev, and write the choice down."""
        missing = self._missing_trials(methods)
        for trial in submit([self._task(measure_trial, run, key) for run, key in missing]):
            note_trial(self.request, trial)
            self.log(f"dev {trial['score']:.2f}: {trial['name']}")
        self.store.chosen.update(read_choices(self.request))
        self._forget_trials(methods)

    def _missing_trials(self, methods: Iterable[Method]) -> list[tuple[Run, str]]:
        done = {trial["key"] for trial in read_trials(self.request)}
        trials = [run for method in methods for run in trials_of(self.request.plan, method)]
        return [(run, key) for run in trials if (key := self.trial_key(run)) not in done]

    def _forget_trials(self, methods: Sequence[Method]) -> None:
        """Delete the models of trials, but for those that are also the models of runs."""
        plan, chosen = self.request.plan, self.store.chosen
        runs = {self.store.key(run) for method in methods for run in runs_of(plan, method, chosen)}
        for trial in [run for method in methods for run in trials_of(plan, method)]:
            if self.store.key(trial) not in runs and not self.request.keep_models:
                self.store.forget(trial)


def _if_not_fp32(plan: Plan) -> list[str]:
    """Return what a key says of the precision: nothing of the usual one."""
    return [] if plan.precision == "fp32" else [plan.precision]


# --- choices: every trial on dev, apart from all test scores, and the best of each kind -------------------


def read_trials(request: Request) -> list[dict[str, Any]]:
    """Return every trial that was noted, those of options that the plan no longer names among them."""
    return list((read_json(request.results / CHOICE_FILE) or {}).get("trials", []))


def note_trial(request: Request, trial: dict[str, Any]) -> None:
    """Add a trial to the file, beside those that another process may have added meanwhile."""
    about = "Chosen on dev sets that share no pair with a test set. One seed: a choice, no result."
    request.cache.mkdir(parents=True, exist_ok=True)
    with FileLock(request.cache / f"{request.plan.name}.lock"):
        known = {one["key"]: one for one in read_trials(request)} | {trial["key"]: trial}
        write_json(request.results / CHOICE_FILE, {"about": about, "trials": list(known.values())})


def read_choices(request: Request) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """Return the best trial on dev of every method, backbone, data and size, of those that the plan names."""
    best: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for trial in read_trials(request):
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
    size = Size.parse(trial["size"]) if trial["size"] else None
    if size and size not in method.sizes:
        return False
    return trial["options"] in method.choose.trials(size) and trial["limit"] == rows


# --- tasks: one trial or one run, here or in another process -----------------------------------------------


@dataclass(frozen=True)
class Task:
    """A trial or a run, with everything that a process needs to do it."""

    do: Callable[[Task, ModelStore], Any]
    request: Request
    chosen: Mapping[tuple[str, str, str, str], Mapping[str, Any]]
    run: Run
    key: str

    def __call__(self) -> Any:
        """Do it, and return the trial's entry or the run's result."""
        request = self.request
        store = ModelStore(request.plan, request.data_folder, request.cache, chosen=dict(self.chosen))
        return self.do(self, store)


def measure_trial(task: Task, store: ModelStore) -> dict[str, Any]:
    """Make the model of a trial and score it on the dev sets."""
    run = task.run
    model = store.model(run)
    scores = dev_scores(store, run, model, read_dev_sets(store, read_test_sets(store).sts))
    return {
        "name": str(run),
        "method": run.method,
        "backbone": run.backbone,
        "data": run.data,
        "size": str(run.size or ""),
        "seed": run.seed,
        "limit": run.limit or store.plan.data[run.data].limit,
        "options": dict(run.options),
        "scores": scores,
        "score": round(statistics.fmean(scores.values()), 4),
        "cost": dict(model.cost),
        "key": task.key,
    }


def measure_run(task: Task, store: ModelStore) -> Result:
    """Make the model of a run, measure it on the test sets, and write its result."""
    request, run = task.request, task.run
    model = store.model(run)
    with machine.measured() as cost:
        found = measure(store, run, model, read_test_sets(store))
    write_scores(scores_file(request.cache, task.key), found.scores, found.gold)
    spent = {
        "train_seconds": model.cost.get("train_seconds", 0.0),
        "train_peak_memory_mb": model.cost.get("peak_memory_mb", 0),
        "evaluate_seconds": round(cost.seconds, 1),
        "evaluate_peak_memory_mb": round(cost.peak_memory_mb),
    }
    method = request.plan.methods[run.method]
    facts = {
        "name": str(run),
        "kind": method.kind,
        "options": _options(request.plan, run, method),
        "command": command_of(request, run),
        "cost": spent,
        "trained_on": model.cost.get("machine", {}),
        "measured_on": machine.facts(),
    }
    result = Result(
        run.method, run.backbone, run.data, run.seed, str(run.size or ""), task.key, found.grids, facts
    )
    results = Results(request.results)
    results.add(
        result, {name: resampled_scores(task.key, name, results, request.cache) for name in found.grids}
    )
    is_needed = any(method.name in request.plan.references(other) for other in request.plan.methods.values())
    if not is_needed and not request.keep_models:
        store.forget(run)
    return result


def _options(plan: Plan, run: Run, method: Method) -> dict[str, Any]:
    """Return what a run was made with, in the words of the plan: no path of this machine is among them."""
    own: dict[str, Any] = {
        "of": list(method.of),
        "cut": method.cut,
        "weights": list(method.weights),
        "loss_options": dict(method.loss_options),
    }
    if method.kind in TRAINED_KINDS:
        own |= effective_options(plan, run)
    if run.data:
        data = plan.data[run.data]
        own |= {"files": list(data.files), "limit": run.limit or data.limit}
    own["backbone"] = dataclasses.asdict(plan.backbones[run.backbone])
    return {key: value for key, value in own.items() if value not in ("", [], {}, (), None)}


# --- workers: tasks one after another here, or several at a time in processes of their own ------------------


Submit = Callable[[Sequence[Callable[[], Any]]], Iterator[Any]]
"""Does tasks, and yields what each gives as soon as it is there."""


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[Submit]:
    """Yield a function that does tasks: here if `jobs` is 1, else in as many processes, one thread each."""
    if jobs == 1:
        yield lambda tasks: (task() for task in tasks)
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes that are started from here on
    pool = concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        yield lambda tasks: _side_by_side(pool, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def _side_by_side(pool: concurrent.futures.Executor, tasks: Sequence[Callable[[], Any]]) -> Iterator[Any]:
    for future in concurrent.futures.as_completed([pool.submit(task) for task in tasks]):
        yield future.result()


def _start_worker() -> None:
    import torch
    import transformers

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone: a killed command leaves nothing behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
