"""The planner's rules, as examples and as properties that hold for every table and budget."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.planning.budget import QUALITY, Budget, constraints_of
from matryoshka2d.planning.choose import (
    by_scarcity,
    choose,
    dominates,
    front,
    nearest,
    obeys,
    relaxations,
    resources_of,
    undecided,
)
from tests.planning.cases import budgets, margin, row, tables

GRID = (
    row("1x32", 0.88, 0.001),
    row("1x128", 0.90, 0.001),
    row("3x32", 0.955, 0.003),
    row("3x128", 0.985, 0.003),
    row("6x32", 0.96, 0.006),
    row("6x128", 1.0, 0.006),
)
BETTER = margin(0.5, GRID)


def chosen(**limits: object) -> str | None:
    found = choose(GRID, Budget(**{"documents": 1000, **limits}), BETTER).row
    return None if found is None else str(found.size)


def test_with_a_floor_the_cheapest_that_keeps_it_wins() -> None:
    assert chosen(min_quality="97%", max_latency="5ms") == "3x128"
    assert chosen(min_quality="94%", max_latency="5ms") == "3x32"


def test_the_lower_end_of_the_interval_must_reach_the_floor() -> None:
    # The estimate of 3x128 is 98.5%, its interval reaches down to 97.5%.
    assert chosen(min_quality="97.5%") == "3x128"
    assert chosen(min_quality="97.6%") == "6x128"


def test_without_a_floor_quality_is_what_the_budget_buys() -> None:
    assert chosen(max_latency="5ms") == "3x128"
    assert chosen(max_latency="1ms") == "1x128"
    # 6x32 is ahead of 3x32 by less than can be told.
    assert chosen(max_index="200kB") == "3x32"


def test_sizes_that_cannot_be_told_apart_count_as_equal() -> None:
    sure = choose(GRID, Budget(max_latency="5ms"), margin(5, GRID)).row
    assert sure is not None
    assert str(sure.size) == "3x32"


def test_the_scarcest_resource_decides_between_sizes_that_are_good_enough() -> None:
    sizes = (row("1x128", 0.99, 0.001), row("4x16", 0.99, 0.004), row("6x128", 1.0, 0.006))
    better = margin(0.5, sizes)

    def answer(**limits: object) -> tuple[str, str]:
        choice = choose(sizes, Budget(min_quality="97%", documents=1000, **limits), better)
        assert choice.row is not None
        assert choice.scarcest is not None
        return str(choice.row.size), choice.scarcest.field

    # Even the most sparing size uses 80% of the index but a tenth of the time, and the reverse.
    assert answer(max_latency="10ms", max_index="80kB") == ("4x16", "max_index")
    assert answer(max_latency="1.2ms", max_index="800kB") == ("1x128", "max_latency")


def test_ties_go_to_the_smaller_vector() -> None:
    assert chosen(min_quality="85%", max_latency="5ms") == "1x32"


def test_nothing_satisfies_and_the_nearest_are_named() -> None:
    budget = Budget(max_latency="2.9ms", min_quality="97%")
    assert choose(GRID, budget, BETTER).row is None
    near = nearest(GRID, budget)
    assert [str(miss.row.size) for miss in near] == ["3x128", "3x32", "1x128"]
    assert [[one.field for one in miss.constraints] for miss in near] == [
        ["max_latency"],
        ["max_latency", "min_quality"],
        ["min_quality"],
    ]


def test_relaxing_says_what_each_step_would_buy() -> None:
    budget = Budget(max_latency="3ms", min_quality="94%", max_index="200kB", documents=1000)
    steps = [
        (one.constraint.field, one.limit, str(one.row.size)) for one in relaxations(GRID, budget, BETTER)
    ]
    # 6x32 would not be told from 3x32, so more time alone buys nothing.
    assert steps == [("max_index", 512_000.0, "3x128"), ("min_quality", pytest.approx(0.87), "1x32")]


def test_relaxing_when_nothing_obeys_buys_an_answer() -> None:
    budget = Budget(max_latency="2ms", min_quality="97%")
    steps = {
        one.constraint.field: (one.limit, str(one.row.size)) for one in relaxations(GRID, budget, BETTER)
    }
    assert steps["max_latency"] == (0.003, "3x128")
    assert steps["min_quality"] == (pytest.approx(0.89), "1x128")


def test_a_size_that_may_keep_enough_is_undecided() -> None:
    budget = Budget(min_quality="95%")
    choice = choose(GRID, budget, BETTER)
    assert str(choice.row and choice.row.size) == "3x128"
    assert [str(one.size) for one in undecided(GRID, budget, choice)] == ["3x32"]


def test_what_is_not_known_does_not_obey() -> None:
    unknown = row("1x8", 0.9, memory=math.nan)
    assert not obeys(unknown, Budget(max_memory="1GB"))
    assert obeys(unknown, Budget(max_latency="1s"))
    assert not obeys(replace(unknown, score=math.nan), Budget())


# --- for every table and every budget -----------------------------------------------------------------


@given(tables(), budgets())
def test_the_chosen_size_obeys_and_no_obeying_size_is_better_without_a_floor(table, budget) -> None:
    rows, better = table
    choice = choose(rows, budget, better)
    assert (choice.row is None) == (not any(obeys(one, budget) for one in rows))
    if choice.row is None:
        return
    assert all(one.is_met_by(choice.row) for one in constraints_of(budget))
    if budget.min_quality is None:
        assert not any(better(one.size, choice.row.size) for one in choice.obeying)


@given(tables(), budgets())
def test_with_a_floor_no_obeying_size_uses_less_of_the_scarcest_resource(table, budget) -> None:
    rows, better = table
    choice = choose(rows, budget, better)
    if choice.row is None or choice.scarcest is None or budget.min_quality is None:
        return
    limits = [one for one in constraints_of(budget) if one.resource is not QUALITY]
    assert choice.scarcest.use(choice.row) == min(choice.scarcest.use(one) for one in choice.obeying)
    assert all(min(one.use(o) for o in choice.obeying) <= choice.scarcest.use(choice.row) for one in limits)


@given(
    tables(),
    budgets(),
    st.sampled_from(["max_latency", "min_throughput", "max_memory", "max_index", "min_quality"]),
    st.floats(1, 10),
)
def test_relaxing_a_budget_never_gives_a_worse_answer(table, budget, field, factor) -> None:
    rows, better = table
    limit = getattr(budget, field)
    if limit is None:
        return
    wider = limit / factor if field.startswith("min") else limit * factor
    narrow, wide = choose(rows, budget, better), choose(rows, replace(budget, **{field: wider}), better)
    if narrow.row is None:
        return
    assert wide.row is not None
    assert {one.size for one in narrow.obeying} <= {one.size for one in wide.obeying}
    if budget.min_quality is None:
        assert not better(narrow.row.size, wide.row.size)
    elif narrow.scarcest is not None:
        assert wide.scarcest is not None
        assert wide.scarcest.use(wide.row) <= narrow.scarcest.use(narrow.row) * (1 + 1e-12)


@given(tables(), budgets())
def test_the_front_is_undominated_and_everything_else_is_dominated_by_it(table, budget) -> None:
    rows, _ = table
    resources = resources_of(budget)
    best = front(rows, resources)
    defined = [one for one in rows if not math.isnan(one.score)]
    assert bool(best) == bool(defined)
    for one in best:
        assert not any(dominates(other, one, resources) for other in defined)
    for one in defined:
        assert one in best or any(dominates(other, one, resources) for other in best)


@given(tables(), budgets())
def test_a_relaxation_does_what_it_says(table, budget) -> None:
    rows, better = table
    now = choose(rows, budget, better)
    for step in relaxations(rows, budget, better):
        moved = replace(budget, **{step.constraint.field: step.limit})
        assert obeys(step.row, moved)
        assert not obeys(step.row, budget)
        if now.row is not None and step.constraint.resource is not QUALITY:
            best = max(now.obeying, key=lambda one: one.score)
            assert better(step.row.size, best.size)


@given(tables(), budgets())
def test_the_nearest_miss_something_and_by_no_more_than_the_others(table, budget) -> None:
    rows, better = table
    if choose(rows, budget, better).row is not None:
        return
    near = nearest(rows, budget)
    defined = [one for one in rows if not math.isnan(one.score)]
    assert len(near) == min(3, len(defined))
    for miss in near:
        assert miss.constraints
        assert miss.excess >= -1e-9
    worst = [
        max(one.use(other) for one in constraints_of(budget) if not one.is_met_by(other)) - 1
        for other in defined
    ]
    assert [miss.excess for miss in near] == sorted(worst)[: len(near)]


@given(tables(), budgets())
def test_the_order_of_scarcity_names_every_limited_resource_once(table, budget) -> None:
    rows, _ = table
    order = by_scarcity([one for one in rows if not math.isnan(one.score)] or rows, budget)
    expected = [one.field for one in constraints_of(budget) if one.resource is not QUALITY]
    assert sorted(one.field for one in order) == sorted(expected)
