"""What a plan is said to take: from runs of this machine, and nothing twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from matryoshka2d_reproduction import expected as module
from matryoshka2d_reproduction import machine
from matryoshka2d_reproduction.expected import Expectation, Rates
from matryoshka2d_reproduction.plan import Method
from matryoshka2d_reproduction.results import Result, read_results
from matryoshka2d_reproduction.running import Bench
from matryoshka2d_reproduction.units import Unit, trials_of, units_of
from matryoshka2d_reproduction.workshop import Workshop
from reproduction.tests.conftest import Ran, request_of

RATES = Rates(row=1.0, word=0.01, depth=2)
ROWS = 16


@pytest.fixture(autouse=True)
def _rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_measure", lambda shop, backbone: RATES)


@pytest.fixture()
def bench(tmp_path: Path) -> Bench:
    """The toy plan, of which nothing has run; 100 words of test sets."""
    bench = Bench(request_of(tmp_path))
    bench.expected = Expectation(bench.shop, [], 100)
    return bench


def unit_of(bench: Bench, name: str) -> Unit:
    return units_of(bench.request.plan, method_of(bench, name), {})[0]


def method_of(bench: Bench, name: str) -> Method:
    return bench.request.plan.methods[name]


def a_run(unit: Unit, machine_facts: dict[str, Any]) -> Result:
    cost = {"train_seconds": 30.0, "evaluate_seconds": 4.0}
    facts = {"cost": cost, "trained_on": machine_facts, "measured_on": machine_facts}
    return Result(unit.method, unit.backbone, unit.data, unit.seed, str(unit.size or ""), "key", {}, facts)


def test_training_counts_rows_and_epochs_and_measuring_counts_words(bench: Bench) -> None:
    assert bench.expected.seconds(unit_of(bench, "plain")) == pytest.approx(ROWS + 1)
    assert bench.expected.seconds(unit_of(bench, "untouched")) == pytest.approx(1)
    twice = dataclasses.replace(unit_of(bench, "plain"), options={"epochs": 2})
    assert bench.expected.seconds(twice) == pytest.approx(2 * ROWS + 1)


def test_a_model_of_half_the_layers_takes_half_as_long(bench: Bench) -> None:
    shallow, deep = sorted(
        units_of(bench.request.plan, method_of(bench, "separate"), {}, [0]), key=lambda one: str(one.size)
    )
    assert bench.expected.seconds(shallow) == pytest.approx(bench.expected.seconds(deep) / 2)


def test_a_trial_encodes_the_dev_sets(bench: Bench) -> None:
    unit = unit_of(bench, "plain")
    assert bench.expected.seconds(unit, dev_words=700) == pytest.approx(ROWS + 7)


def test_a_model_that_is_there_is_only_measured(bench: Bench) -> None:
    unit = unit_of(bench, "plain")
    assert bench.expected.seconds(unit, is_made=True) == pytest.approx(1)
    bench.shop.model(unit)
    assert bench.shop.is_made(unit)
    assert bench.expected.seconds(unit) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "is_taken"), [({}, True), ({"date": "then"}, True), ({"accelerator": "H"}, False)]
)
def test_only_runs_of_this_machine_say_how_long_others_take(
    bench: Bench, change: dict[str, Any], is_taken: bool
) -> None:
    unit = unit_of(bench, "plain")
    bench.expected.learn(a_run(unit, {**machine.facts(), **change}))
    other_seed = dataclasses.replace(unit, seed=1)
    assert bench.expected.seconds(other_seed) == pytest.approx(34 if is_taken else ROWS + 1)
    assert bench.expected.seconds(other_seed, is_made=True) == pytest.approx(4 if is_taken else 1)


def test_runs_side_by_side_learn_from_runs_of_one_thread(bench: Bench) -> None:
    unit = unit_of(bench, "plain")
    result = a_run(unit, {**machine.facts(), "threads": 1})
    assert Expectation(bench.shop, [result], 100, jobs=2).seconds(unit) == pytest.approx(34)
    if machine.facts()["threads"] != 1:
        assert Expectation(bench.shop, [result], 100).seconds(unit) == pytest.approx(ROWS + 1)


def test_what_a_trial_trains_is_not_trained_again(bench: Bench) -> None:
    method = method_of(bench, "separate")
    said = bench.announcement([method])
    trials = sum(
        bench.expected.seconds(unit, dev_words=bench.dev_words)
        for unit in trials_of(bench.request.plan, method)
    )
    runs = units_of(bench.request.plan, method, {})
    rest = sum(bench.expected.seconds(unit, is_made=unit.seed == 0 or None) for unit in runs)
    assert f"about {(trials + rest) / 3600:.2f} hours" in said


def test_what_has_run_is_expected_to_take_as_long_again(ran: Ran) -> None:
    earlier = read_results(ran.request.results)
    request = ran.request
    expected = Expectation(Workshop(request.plan, request.data_folder, request.runs), earlier, 100)
    plain = [one for one in earlier if one.method == "plain"]
    costs = [one.facts["cost"] for one in plain]
    mean = sum(cost["train_seconds"] + cost["evaluate_seconds"] for cost in costs) / len(costs)
    unit = units_of(request.plan, request.plan.methods["plain"], {})[0]
    assert expected.seconds(unit, is_made=False) == pytest.approx(mean)


def test_rates_are_positive_and_of_the_plans_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    bench = Bench(request_of(tmp_path))
    rates = bench.expected._rates("tiny")
    assert rates.row > 0
    assert rates.word > 0
    assert rates.depth == 2
