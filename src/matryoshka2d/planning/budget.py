"""A budget: what a user can afford and what a size must keep, in the user's own terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.evaluation.cost import INDEX_PRECISIONS, Costs, index_bytes, vector_bytes
from matryoshka2d.evaluation.quality import Quality
from matryoshka2d.planning.units import (
    read_bytes,
    read_count,
    read_rate,
    read_seconds,
    read_share,
    show_bytes,
    show_count,
    show_percent,
    show_rate,
    show_seconds,
)
from matryoshka2d.size import Size


@dataclass(frozen=True, init=False)
class Budget:
    """Limits, in any combination; a size obeys a budget when it obeys every one of them.

    Every amount may be given as text with its unit. What is left out does not limit anything.

    Parameters
    ----------
    max_latency
        How long one text may take, at the 95th percentile: ``"2ms"``, or a number of seconds.
    min_throughput
        Texts a second that a size must embed: ``"500"``.
    max_memory
        Peak memory of a process that embeds at the size: ``"600MB"``, or a number of bytes.
    max_index
        Size of the index of all documents: ``"4GB"``, or a number of bytes. Needs `documents`.
    min_quality
        The share of the full size's quality that a size must keep: ``"97%"``, or ``0.97``. The lower end
        of the size's interval must reach it, not just its estimate.
    documents
        How many vectors the index holds: ``"20M"``.
    precision
        How the index keeps a coordinate: ``"float32"`` (4 bytes), ``"int8"`` (1) or ``"binary"`` (1 bit).
        Quality is then that of vectors kept so.

    Raises
    ------
    UserError
        If an amount cannot be read, is not above 0, or `max_index` comes without `documents`.

    Examples
    --------
    >>> budget = Budget(max_latency="2ms", min_quality="97%", max_index="4GB", documents="20M")
    >>> budget.max_latency, budget.min_quality, budget.max_index
    (0.002, 0.97, 4000000000.0)
    >>> print(budget)
    latency (p95) ≤ 2 ms, index ≤ 4 GB for 20 M documents at float32, quality ≥ 97.0%
    """

    max_latency: float | None
    min_throughput: float | None
    max_memory: float | None
    max_index: float | None
    min_quality: float | None
    documents: int | None
    precision: str

    def __init__(
        self,
        *,
        max_latency: str | float | None = None,
        min_throughput: str | float | None = None,
        max_memory: str | float | None = None,
        max_index: str | float | None = None,
        min_quality: str | float | None = None,
        documents: str | float | None = None,
        precision: str = "float32",
    ) -> None:
        readings: dict[str, Any] = {
            "max_latency": (read_seconds, max_latency),
            "min_throughput": (read_rate, min_throughput),
            "max_memory": (read_bytes, max_memory),
            "max_index": (read_bytes, max_index),
            "min_quality": (read_share, min_quality),
            "documents": (read_count, documents),
        }
        for name, (read, value) in readings.items():
            object.__setattr__(self, name, None if value is None else read(value, name.replace("_", " ")))
        if self.documents is not None:
            object.__setattr__(self, "documents", max(1, round(self.documents)))
        if self.max_index is not None and self.documents is None:
            raise UserError("max index needs the number of documents: give documents too, as 20M")
        if precision not in INDEX_PRECISIONS:
            known = ", ".join(INDEX_PRECISIONS)
            raise UserError(
                f"no index has precision '{precision}': expected one of {known}."
                f"{did_you_mean(precision, INDEX_PRECISIONS)}"
            )
        object.__setattr__(self, "precision", precision)

    @classmethod
    def from_dict(cls, limits: Mapping[str, Any]) -> Budget:
        """Make a budget from a mapping, such as a part of a configuration file.

        Raises
        ------
        UserError
            If a key is not a limit, or as `Budget` itself.

        Examples
        --------
        >>> print(Budget.from_dict({"max_latency": "2ms"}))
        latency (p95) ≤ 2 ms
        """
        known = [one.name for one in fields(cls)]
        for name in limits:
            if name not in known:
                hint = did_you_mean(name, known)
                raise UserError(f"a budget has no '{name}': expected some of {', '.join(known)}.{hint}")
        return cls(**limits)

    def __str__(self) -> str:

        named = [str(constraint) for constraint in constraints_of(self)]
        return ", ".join(named) or "no limits"

    def to_dict(self) -> dict[str, Any]:
        """Return the limits that are set, in seconds, bytes and shares, and the index precision."""
        return {name: value for name, value in vars(self).items() if value is not None}


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


@dataclass(frozen=True)
class Row:
    """What is known of a size.

    Parameters
    ----------
    size
        The size.
    score, score_low, score_high
        Quality x100, the mean over sets, with its interval.
    kept, kept_low, kept_high
        The share of the full size's quality, with its interval; simultaneous over all sizes.
    latency_p50, latency_p95
        Seconds for one text.
    throughput
        Texts a second when many are given at once.
    memory
        Peak bytes; nan if it was not measured.
    vector
        Bytes of one vector in the index.
    index
        Bytes of the whole index, and of what one exhaustive search reads; nan without a number of documents.
    """

    size: Size
    score: float
    score_low: float
    score_high: float
    kept: float
    kept_low: float
    kept_high: float
    latency_p50: float
    latency_p95: float
    throughput: float
    memory: float
    vector: int
    index: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; what is not known is None."""
        values = {name: value for name, value in vars(self).items() if name != "size"}
        return {
            "size": str(self.size),
            **{name: None if math.isnan(value) else value for name, value in values.items()},
        }


def rows_of(quality: Quality, costs: Costs, budget: Budget) -> tuple[Row, ...]:
    """Return the row of every size whose quality was measured, ascending."""
    return tuple(_row(size, quality, costs, budget) for size in quality.sizes)


def _row(size: Size, quality: Quality, costs: Costs, budget: Budget) -> Row:
    score, kept, cost = quality.score(size), quality.kept(size), costs.of(size)
    return Row(
        size,
        *score,
        *kept,
        cost.latency_p50,
        cost.latency_p95,
        cost.throughput,
        cost.memory,
        vector_bytes(size.dims, budget.precision),
        math.nan if budget.documents is None else index_bytes(size.dims, budget.documents, budget.precision),
    )


def by_size(rows: tuple[Row, ...]) -> Mapping[Size, Row]:
    """Return size → row."""
    return {row.size: row for row in rows}
