"""The constraints that a budget may hold, as a table: what each limits, and how it is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matryoshka2d.planning.units import (
    show_bytes,
    show_count,
    show_percent,
    show_rate,
    show_seconds,
)

if TYPE_CHECKING:
    from matryoshka2d.planning.budget import Budget
    from matryoshka2d.planning.rows import Row


@dataclass(frozen=True)
class Resource:
    """Something of which a size uses a certain amount.

    Parameters
    ----------
    name
        As it is said.
    field
        The field of `Budget` that limits it; empty if none does.
    amount
        Row → the amount as it is shown.
    show
        Amount → text.
    at_least
        Whether the limit is the least there must be (texts a second) instead of the most.
    """

    name: str
    field: str
    amount: Callable[[Row], float]
    show: Callable[[float], str]
    at_least: bool = False

    def use(self, row: Row, limit: float) -> float:
        """Return how much of the limit a size uses: 1 is all of it, more is too much; nan if not known.

        Infinite where there must be some and there is none, as of quality at a size that keeps nothing.
        """
        amount = self.amount(row)
        if self.at_least:
            return math.inf if amount <= 0 else limit / amount
        return amount / limit

    def cost(self, row: Row) -> float:
        """Return a number that is smaller the less of the resource is used."""
        amount = self.amount(row)
        if self.at_least:
            return math.inf if amount <= 0 else 1 / amount
        return amount


LATENCY = Resource("latency (p95)", "max_latency", lambda row: row.latency_p95, show_seconds)
THROUGHPUT = Resource("throughput", "min_throughput", lambda row: row.throughput, show_rate, at_least=True)
MEMORY = Resource("memory", "max_memory", lambda row: row.memory, show_bytes)
INDEX = Resource("index", "max_index", lambda row: row.index, show_bytes)
VECTOR = Resource("bytes a vector", "", lambda row: float(row.vector), show_bytes)
QUALITY = Resource("quality", "min_quality", lambda row: row.kept_low, show_percent, at_least=True)

LIMITED = (LATENCY, THROUGHPUT, MEMORY, INDEX)
"""Resources that a budget may limit."""

ALWAYS = (LATENCY, VECTOR)
"""Resources that every size uses and that decide between sizes which the limits do not tell apart."""


@dataclass(frozen=True)
class Constraint:
    """A resource with the limit that a budget sets to it."""

    resource: Resource
    limit: float
    of: str = ""

    @property
    def field(self) -> str:
        """The field of `Budget`."""
        return self.resource.field

    def use(self, row: Row) -> float:
        """Return how much of the limit a size uses; infinite if the amount is not known."""
        use = self.resource.use(row, self.limit)
        return math.inf if math.isnan(use) else use

    def is_met_by(self, row: Row) -> bool:
        """Return whether a size obeys."""
        amount = self.resource.amount(row)
        # Compared as given: a quotient may round to 1 on either side.
        return amount >= self.limit if self.resource.at_least else amount <= self.limit

    def show(self, limit: float | None = None) -> str:
        """Return the constraint as it is said, with its own limit or another one."""
        sign = "≥" if self.resource.at_least else "≤"
        return f"{self.resource.name} {sign} {self.resource.show(self.limit if limit is None else limit)}"

    def miss(self, row: Row) -> str:
        """Return by what a size misses the limit."""
        sign = "≥" if self.resource.at_least else "≤"
        amount, limit = self.resource.show(self.resource.amount(row)), self.resource.show(self.limit)
        return f"{self.resource.name} {amount} instead of {sign} {limit}"

    def __str__(self) -> str:
        return f"{self.show()}{self.of}"


def constraints_of(budget: Budget) -> tuple[Constraint, ...]:
    """Return the constraints of a budget, those on resources first."""
    return tuple(_constraints(budget))


def _constraints(budget: Budget) -> Iterator[Constraint]:
    for resource in (*LIMITED, QUALITY):
        limit = getattr(budget, resource.field)
        if limit is not None:
            of = ""
            if resource is INDEX and budget.documents is not None:
                of = f" for {show_count(budget.documents)} documents at {budget.precision}"
            yield Constraint(resource, limit, of)
