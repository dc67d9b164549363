"""The plan: the size that a budget comes to, why, and everything that it was chosen from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from matryoshka2d.evaluation.cost import Costs
from matryoshka2d.evaluation.quality import Quality
from matryoshka2d.planning.budget import QUALITY, Budget, Row, constraints_of, rows_of
from matryoshka2d.planning.choose import (
    Choice,
    Miss,
    Relaxation,
    choose,
    front,
    nearest,
    relaxations,
    resources_of,
    undecided,
)
from matryoshka2d.planning.units import show_bytes, show_percent, show_seconds
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST_UNITS = 30
# A share of the score that nobody would miss.
_SMALL_LEAD = 0.01


@dataclass(frozen=True)
class Plan:
    """What a budget comes to for a model on this machine. Made by `plan`, or from parts measured before.

    Parameters
    ----------
    budget
        The limits.
    quality
        The measured quality of every size.
    costs
        The measured cost of every depth.
    model
        The name of the model, as it was given.

    Examples
    --------
    >>> import numpy as np
    >>> from matryoshka2d.evaluation.cost import Cost
    >>> from matryoshka2d.evaluation.grid import Grid
    >>> grid = Grid((Size(1, 64), Size(2, 64)), {"stsb": (78.0, 80.0)})
    >>> shares = np.array([[0.975, 0.972, 0.978], [1.0, 1.0, 1.0]])
    >>> scores = np.array([[77.5, 78.5], [79.5, 80.5]])
    >>> quality = Quality(grid, scores, shares, np.full((2, 2), 0.5), {"stsb": 1379})
    >>> costs = Costs({1: Cost(0.001, 0.002, 900.0), 2: Cost(0.002, 0.004, 500.0)})
    >>> made = Plan(Budget(min_quality="97%"), quality, costs)
    >>> str(made.size), str(Plan(Budget(max_latency="1ms"), quality, costs).size)
    ('1x64', 'None')
    """

    budget: Budget
    quality: Quality
    costs: Costs
    model: str = ""

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every size with what is known of it, ascending."""
        return rows_of(self.quality, self.costs, self.budget)

    @cached_property
    def choice(self) -> Choice:
        """The choice, with the sizes that obey and the scarcest resource."""
        return choose(self.rows, self.budget, self.quality.better)

    @property
    def row(self) -> Row | None:
        """The recommended size with what is known of it; None if no size obeys."""
        return self.choice.row

    @property
    def size(self) -> Size | None:
        """The recommended size; None if no size obeys."""
        return None if self.row is None else self.row.size

    @cached_property
    def front(self) -> tuple[Row, ...]:
        """The Pareto front over quality and the resources that the budget limits."""
        return front(self.rows, resources_of(self.budget))

    @cached_property
    def nearest(self) -> tuple[Miss, ...]:
        """If no size obeys: the three that miss the budget by least."""
        return () if self.size else nearest(self.rows, self.budget)

    @cached_property
    def relaxations(self) -> tuple[Relaxation, ...]:
        """What moving each constraint would buy."""
        return relaxations(self.rows, self.budget, self.quality.better)

    @cached_property
    def undecided(self) -> tuple[Row, ...]:
        """Cheaper sizes that may keep enough, if only the data could tell."""
        return undecided(self.rows, self.budget, self.choice)

    # --- in words ----------------------------------------------------------------------------------

    @property
    def headline(self) -> str:
        """The answer in one line."""
        if self.row is None:
            near = ", ".join(str(miss.row.size) for miss in self.nearest)
            return f"no size satisfies this: the nearest are {near}" if near else "no size satisfies this"
        return f"take {self.row.size}: {self._in_words(self.row)}"

    def _in_words(self, row: Row) -> str:
        what = "agreement with the full size" if self.quality.fidelity else "the full size's quality"
        interval = f"[{show_percent(row.kept_low)}, {show_percent(row.kept_high)}]"
        amounts = [f"{show_percent(row.kept)} {interval} of {what}", f"{show_seconds(row.latency_p95)} (p95)"]
        if not math.isnan(row.index):
            amounts.append(f"index {show_bytes(row.index)}")
        return ", ".join(amounts)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why that size, or why none."""
        return tuple(self._reasons())

    def _reasons(self) -> Iterator[str]:
        count, obeying = len(self.rows), len(self.choice.obeying)
        if self.row is None:
            for miss in self.nearest:
                missed = ", ".join(one.miss(miss.row) for one in miss.constraints)
                yield f"{miss.row.size}: {missed}"
            return
        yield f"{obeying} of {count} sizes obey: {self.budget}"
        spared = "the cheapest of these wins"
        if self.budget.min_quality is None:
            spared = "of those that no other beats by the paired interval, the cheapest wins"
        scarcest = self.choice.scarcest
        if scarcest is None:
            yield f"{spared}; no resource is limited, so by latency, then by bytes a vector"
        else:
            use = scarcest.use(self.row)
            name = scarcest.resource.name
            yield f"{spared}; the scarcest resource is {name}: {self.row.size} uses {use:.0%} of the limit"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know to trust the answer, or not to."""
        return tuple(self._notes())

    def _notes(self) -> Iterator[str]:
        quality = self.quality
        if quality.fidelity:
            yield (
                "this measures fidelity, not quality: how far a size agrees with this model's full size "
                "on your texts, whether that is right or wrong"
            )
        if quality.total < _FEWEST_UNITS:
            yield (
                f"{quality.total} {quality.of} are too few to tell: intervals from fewer than "
                f"{_FEWEST_UNITS} are not to be trusted"
            )
        if self.undecided:
            yield self._too_small()
        yield from self._not_told_apart()
        computed = self.costs.details.get("precision", "fp32")
        if computed != "fp32":
            yield f"quality was measured in fp32; the engine that was timed computes in {computed}"
        yield from self.details

    def _too_small(self) -> str:
        floor = self.budget.min_quality
        assert floor is not None
        row = max(self.undecided, key=lambda one: one.kept)
        needed = self._units_for((row.kept - row.kept_low) / max(row.kept - floor, 1e-9))
        enough = (
            f"about {_round_up(needed):,} would tell" if needed < 1e7 else "it may lie on the floor itself"
        )
        return (
            f"{self.quality.total:,} {self.quality.of} are too few to tell whether cheaper sizes keep "
            f"{show_percent(floor)}: {', '.join(str(one.size) for one in self.undecided[:6])}"
            f"{' …' if len(self.undecided) > 6 else ''} may. For {row.size}, {enough}"
        )

    def _not_told_apart(self) -> Iterator[str]:
        """Yield a warning if the chosen size stands beside a much better one only for want of data."""
        if self.row is None or self.budget.min_quality is not None:
            return
        best = max(self.choice.obeying, key=lambda row: row.score)
        lead = best.score - self.row.score
        if lead <= _SMALL_LEAD * abs(best.score):
            return
        margin = self.quality.margin(best.size, self.row.size)
        needed = (
            "" if math.isnan(margin) else f": about {_round_up(self._units_for(margin / lead)):,} would tell"
        )
        yield (
            f"{self.quality.total:,} {self.quality.of} are too few to tell {self.row.size} from {best.size}, "
            f"which scored {lead:.1f} points more and costs more{needed}"
        )

    def _units_for(self, ratio: float) -> float:
        """Return how many pairs would make an interval narrower by a factor."""
        return self.quality.total * ratio**2

    @property
    def details(self) -> tuple[str, ...]:
        """Where the numbers come from."""
        quality, costs = self.quality, self.costs.details
        sets = ", ".join(f"{name} ({count:,})" for name, count in quality.units.items())
        from_ = " ".join(str(quality.details[key]) for key in ("source", "date") if key in quality.details)
        precision = "" if quality.precision == "float32" else f", vectors kept as {quality.precision}"
        lines = [f"quality: {quality.grid.metric} on {quality.of} of {sets}{precision}; {from_}".rstrip("; ")]
        if costs:
            lines.append("cost: " + ", ".join(f"{key} {value}" for key, value in costs.items()))
        return tuple(lines)

    def relaxed(self) -> tuple[str, ...]:
        """Return what moving each constraint would buy, one line each."""
        lines = [self._relaxed(one) for one in self.relaxations]
        moved = {one.constraint.field for one in self.relaxations}
        nothing = [one.resource.name for one in constraints_of(self.budget) if one.field not in moved]
        vain = "buy nothing" if self.row else "not be enough"
        return (*lines, *(f"{name}: moving it alone would {vain}" for name in nothing))

    def _relaxed(self, one: Relaxation) -> str:
        name = one.constraint.resource.name
        change = f"without a limit on {name}" if one.limit is None else one.constraint.show(one.limit)
        bought = f"{one.row.size}, {self._in_words(one.row)}"
        if self.row is None:
            return f"{change} would allow {bought}"
        if one.constraint.resource is QUALITY:
            return f"{change} would do with {bought}"
        best = max(self.choice.obeying, key=lambda row: row.score)
        return f"{change} would allow {bought}; the most now is {show_percent(best.kept)}, of {best.size}"

    # --- out ---------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        front_sizes = {row.size for row in self.front}
        obeying = {row.size for row in self.choice.obeying}
        return {
            "model": self.model,
            "budget": self.budget.to_dict(),
            "size": None if self.size is None else str(self.size),
            "headline": self.headline,
            "reasons": list(self.reasons),
            "scarcest": self.choice.scarcest.field if self.choice.scarcest else None,
            "nearest": [
                {"size": str(miss.row.size), "misses": [one.field for one in miss.constraints]}
                for miss in self.nearest
            ],
            "relaxations": [
                {"constraint": one.constraint.field, "limit": one.limit, "size": str(one.row.size)}
                for one in self.relaxations
            ],
            "notes": list(self.notes),
            "fidelity": self.quality.fidelity,
            "sizes": [
                {**row.to_dict(), "obeys": row.size in obeying, "front": row.size in front_sizes}
                for row in self.rows
            ],
            "costs": self.costs.to_dict(),
            "quality": _provenance(self.quality),
        }

    def figure(self) -> Figure:
        """Draw the Pareto front: quality against latency and against bytes a vector."""
        from matryoshka2d.planning.view import plan_figure

        return plan_figure(self)

    def __str__(self) -> str:
        from matryoshka2d.planning.view import plan_text

        return plan_text(self)

    def _repr_html_(self) -> str:
        from matryoshka2d.planning.view import plan_html

        return plan_html(self)


def _round_up(count: float) -> int:
    step = 10 ** max(1, math.floor(math.log10(max(count, 10))))
    return int(math.ceil(count / step) * step)


def _provenance(quality: Quality) -> Mapping[str, Any]:
    return {
        "metric": quality.grid.metric,
        "units": dict(quality.units),
        "of": quality.of,
        "precision": quality.precision,
        **quality.details,
    }
