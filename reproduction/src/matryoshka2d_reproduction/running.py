"""Running a plan: choose on dev, then make and measure every unit that is not there yet."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from matryoshka2d.errors import UserError
from matryoshka2d_reproduction.choices import note_trial, read_choices, read_trials
from matryoshka2d_reproduction.expected import Expectation
from matryoshka2d_reproduction.keys import key_of
from matryoshka2d_reproduction.measuring import DevSets, read_dev_sets, read_test_sets, sets_key, words_of
from matryoshka2d_reproduction.plan import Method, Plan
from matryoshka2d_reproduction.replicates import has_replicates
from matryoshka2d_reproduction.request import Request, plan_facts
from matryoshka2d_reproduction.results import PLAN_FILE, read_result, read_results, write_json
from matryoshka2d_reproduction.tasks import Task
from matryoshka2d_reproduction.units import Unit, layers, needed, selected, trials_of, units_of
from matryoshka2d_reproduction.workers import Submit, workers
from matryoshka2d_reproduction.workshop import Workshop

Say = Callable[[str], None]


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
    with workers(request.jobs) as submit:
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
        try:
            earlier = read_results(request.results)
        except UserError:
            earlier = []
        self.expected = Expectation(self.shop, earlier, words_of(self.tests), request.jobs)

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
        tried = {trial["key"] for trial in read_trials(self.request)}
        choosing = [m for m in plan.methods.values() if m.name in needed(plan, methods)]
        trials = [u for m in choosing for u in trials_of(plan, m) if self.trial_key(u) not in tried]
        units = [unit for method in methods for unit in self.units(method)]
        pending = [unit for unit in units if not self.is_done(unit, self.result_key(unit))]
        seconds = sum(self.expected.seconds(unit, dev_words=self.dev_words) for unit in trials)
        paid = {str(dataclasses.replace(unit, options={})) for unit in trials if unit.limit is None}
        for unit in pending:
            is_tried = str(dataclasses.replace(unit, options={})) in paid
            seconds += self.expected.seconds(unit, is_made=True if is_tried else None)
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

    @cached_property
    def dev_key(self) -> Any:
        """What the dev sets are made of."""
        return sets_key(self.dev_sets)

    @cached_property
    def dev_words(self) -> int:
        """How many words the dev sets hold."""
        return words_of(self.dev_sets)

    @cached_property
    def dev_sets(self) -> DevSets:
        """The dev sets, read when the first trial asks for them."""
        return read_dev_sets(self.shop, self.tests.sts)

    def choose(self, methods: Sequence[Method], submit: Submit, say: Say) -> None:
        """Try what is to be chosen on dev, and write the choice down."""
        units = [unit for method in methods for unit in trials_of(self.request.plan, method)]
        done = {trial["key"] for trial in read_trials(self.request)}
        keys = [self.trial_key(unit) for unit in units]
        missing = [(u, k) for u, k in zip(units, keys, strict=True) if k not in done]
        for trial in submit(
            [(unit, self._try(unit, key)) for unit, key in missing],
            lambda unit: self.fits(self.expected.seconds(unit, dev_words=self.dev_words)),
        ):
            note_trial(self.request, trial)
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
        plan, tried = self.request.plan, {trial["key"] for trial in read_trials(self.request)}
        involved = [plan.methods[name] for name in needed(plan, [method])]
        return any(self.trial_key(unit) not in tried for one in involved for unit in trials_of(plan, one))


def _if_not_fp32(plan: Plan) -> list[str]:
    """Return what a key says of the precision: nothing of the usual one."""
    return [] if plan.precision == "fp32" else [plan.precision]
