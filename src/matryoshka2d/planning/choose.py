"""Choosing a size: pure functions of the rows and the budget.

A size obeys a budget when it meets every constraint. Among those that obey:

- with a quality floor, every one is good enough, and the cheapest wins;
- without one, quality is what the budget is spent on: sizes than which another obeying size is better, by
  their paired interval, are out, and the cheapest of the rest wins, for more would be paid for nothing that
  was measured.

Cheapest is meant in the scarcest resource: the limit of which even the most sparing of these sizes uses the
largest share. Ties are decided by the next scarcest, then by latency and bytes a vector. So a wider budget
never gives a worse answer: with a floor, the share used of the scarcest resource cannot rise; without one, no
size that obeyed the narrower budget is better than the one chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from matryoshka2d.planning.budget import ALWAYS, QUALITY, Budget, Constraint, Resource, Row, constraints_of
from matryoshka2d.size import Size

Better = Callable[[Size, Size], bool]
"""Whether the first size is better than the second by their paired interval."""


@dataclass(frozen=True)
class Choice:
    """What a budget comes to.

    Parameters
    ----------
    row
        The chosen size; None if no size obeys.
    scarcest
        The constraint with the least slack; None if no resource is limited.
    obeying
        All sizes that obey, ascending.
    """

    row: Row | None
    scarcest: Constraint | None
    obeying: tuple[Row, ...]


def choose(rows: Sequence[Row], budget: Budget, better: Better) -> Choice:
    """Return the size that a budget comes to; the rules stand at the top of this file.

    Parameters
    ----------
    rows
        The sizes.
    budget
        The limits.
    better
        Whether the first of two sizes is better by their paired interval. It must imply a higher score.
    """
    obeying = tuple(row for row in rows if obeys(row, budget))
    if not obeying:
        return Choice(None, None, ())
    pool = good_enough(obeying, budget, better)
    limits = by_scarcity(pool, budget)
    keys = [*(limit.resource for limit in limits), *ALWAYS]
    best = min(pool, key=lambda row: (*(key.cost(row) for key in keys), -row.score, row.size))
    return Choice(best, limits[0] if limits else None, obeying)


def obeys(row: Row, budget: Budget) -> bool:
    """Return whether a size meets every constraint; one whose quality is undefined never does."""
    return not math.isnan(row.score) and all(one.is_met_by(row) for one in constraints_of(budget))


def good_enough(obeying: Sequence[Row], budget: Budget, better: Better) -> tuple[Row, ...]:
    """Return those of which the cheapest is to be taken."""
    if budget.min_quality is not None:
        return tuple(obeying)
    return tuple(row for row in obeying if not any(better(other.size, row.size) for other in obeying))


def by_scarcity(pool: Sequence[Row], budget: Budget) -> list[Constraint]:
    """Return the limits on resources, that with the least slack first."""
    limits = [one for one in constraints_of(budget) if one.resource is not QUALITY]
    return sorted(limits, key=lambda one: -min(one.use(row) for row in pool))


# --- the front ----------------------------------------------------------------------------------------


def front(rows: Sequence[Row], resources: Sequence[Resource]) -> tuple[Row, ...]:
    """Return the Pareto front: sizes that no other matches in quality and undercuts in cost, or reverse.

    Parameters
    ----------
    rows
        The sizes; those of undefined quality are left out.
    resources
        The costs that count.
    """
    defined = [row for row in rows if not math.isnan(row.score)]
    return tuple(row for row in defined if not any(dominates(other, row, resources) for other in defined))


def dominates(row: Row, other: Row, resources: Sequence[Resource]) -> bool:
    """Return whether a size is nowhere worse than another and somewhere better."""
    costs = [(one.cost(row), one.cost(other)) for one in resources]
    nowhere_worse = row.score >= other.score and all(own <= its for own, its in costs)
    return nowhere_worse and (row.score > other.score or any(own < its for own, its in costs))


def resources_of(budget: Budget) -> tuple[Resource, ...]:
    """Return the costs that the front of a budget is drawn over: those it limits, or latency and bytes."""
    limited = tuple(one.resource for one in constraints_of(budget) if one.resource is not QUALITY)
    return limited or ALWAYS


# --- when nothing obeys, and what more would buy ------------------------------------------------------


@dataclass(frozen=True)
class Miss:
    """A size that does not obey, and the constraints that it misses."""

    row: Row
    constraints: tuple[Constraint, ...]

    @property
    def excess(self) -> float:
        """By which share the worst of them is missed."""
        return max(one.use(self.row) for one in self.constraints) - 1


def nearest(rows: Sequence[Row], budget: Budget, count: int = 3) -> tuple[Miss, ...]:
    """Return the sizes that miss a budget by least: their worst miss, relative to its limit, is smallest."""
    constraints = constraints_of(budget)
    misses = [
        Miss(row, tuple(one for one in constraints if not one.is_met_by(row)))
        for row in rows
        if not math.isnan(row.score)
    ]
    far = [miss for miss in misses if miss.constraints]
    return tuple(sorted(far, key=lambda miss: (miss.excess, len(miss.constraints), -miss.row.score))[:count])


@dataclass(frozen=True)
class Relaxation:
    """What a budget with one constraint moved would come to.

    Parameters
    ----------
    constraint
        The constraint as it is.
    limit
        Where it would have to be; None if it were left out.
    row
        The size that this would buy.
    """

    constraint: Constraint
    limit: float | None
    row: Row


def relaxations(rows: Sequence[Row], budget: Budget, better: Better) -> tuple[Relaxation, ...]:
    """Return, for each constraint, the first step that would buy something, and what leaving it out would.

    Where nothing obeys, a step buys an answer. Else a step in a resource buys quality: a size that is better,
    by the paired interval, than the best that obeys now. A step in the quality floor buys a cheaper size.
    """
    found: list[Relaxation] = []
    for constraint in constraints_of(budget):
        found += _steps(rows, budget, constraint, better)
    return tuple(found)


def _steps(rows: Sequence[Row], budget: Budget, constraint: Constraint, better: Better) -> list[Relaxation]:
    limits: list[float | None] = [*_beyond(rows, constraint)]
    first = next(
        (
            Relaxation(constraint, limit, row)
            for limit in limits
            if (row := _bought(rows, budget, constraint, limit, better))
        ),
        None,
    )
    if first is None:
        return []
    if constraint.resource is QUALITY:
        return [first]
    last = _bought(rows, budget, constraint, None, better)
    return (
        [first]
        if last is None or last.size == first.row.size
        else [first, Relaxation(constraint, None, last)]
    )


def _beyond(rows: Sequence[Row], constraint: Constraint) -> list[float]:
    """Return the amounts beyond the limit that some size has, the nearest first."""
    amounts = {constraint.resource.amount(row) for row in rows if not constraint.is_met_by(row)}
    known = [amount for amount in amounts if not math.isnan(amount) and amount > 0]
    return sorted(known, reverse=constraint.resource.at_least)


def _bought(
    rows: Sequence[Row], budget: Budget, constraint: Constraint, limit: float | None, better: Better
) -> Row | None:
    """Return the size that a moved limit would buy, or None if it buys nothing."""
    now = choose(rows, budget, better)
    then = choose(rows, moved(budget, constraint, limit), better)
    if now.row is None or constraint.resource is QUALITY:
        return (
            then.row if then.row is not None and (now.row is None or then.row.size != now.row.size) else None
        )
    best = max(now.obeying, key=lambda row: row.score)
    gained = [row for row in then.obeying if better(row.size, best.size)]
    # The cheapest of the best: what more would be paid for nothing that was measured.
    top = [row for row in gained if not any(better(other.size, row.size) for other in gained)]
    return min(top, key=lambda row: (*(one.cost(row) for one in ALWAYS), row.size)) if top else None


def moved(budget: Budget, constraint: Constraint, limit: float | None) -> Budget:
    """Return the budget with one limit moved, or left out."""
    changes = {constraint.field: limit}
    return replace(budget, **changes)  # type: ignore[arg-type]


def undecided(rows: Sequence[Row], budget: Budget, choice: Choice) -> tuple[Row, ...]:
    """Return sizes cheaper than the chosen one that may well keep enough, but too few pairs tell.

    Their estimate reaches the quality floor, the lower end of their interval does not, and they meet
    every other constraint.
    """
    floor = next((one for one in constraints_of(budget) if one.resource is QUALITY), None)
    if floor is None:
        return ()
    rest = moved(budget, floor, None)
    open_ = [row for row in rows if row.kept >= floor.limit > row.kept_low and obeys(row, rest)]
    if choice.row is None:
        return tuple(open_)
    chosen = choice.row
    keys = [*([choice.scarcest.resource] if choice.scarcest else []), *ALWAYS]
    return tuple(row for row in open_ if [key.cost(row) for key in keys] < [key.cost(chosen) for key in keys])
