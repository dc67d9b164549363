"""A budget: what a user can afford and what a size must keep, in the user's own terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.evaluation.cost import INDEX_PRECISIONS
from matryoshka2d.planning.units import read_bytes, read_count, read_rate, read_seconds, read_share


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
        from matryoshka2d.planning.constraints import constraints_of

        named = [str(constraint) for constraint in constraints_of(self)]
        return ", ".join(named) or "no limits"

    def to_dict(self) -> dict[str, Any]:
        """Return the limits that are set, in seconds, bytes and shares, and the index precision."""
        return {name: value for name, value in vars(self).items() if value is not None}
