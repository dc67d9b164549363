"""One row a size: measured quality and measured and computed cost side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matryoshka2d.evaluation.cost import Costs, index_bytes, vector_bytes
from matryoshka2d.evaluation.quality import Quality
from matryoshka2d.planning.budget import Budget
from matryoshka2d.size import Size


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
