"""Rows, qualities and budgets made up for tests, and as hypothesis strategies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from matryoshka2d.evaluation.cost import Cost, Costs
from matryoshka2d.evaluation.grid import Grid
from matryoshka2d.evaluation.quality import Quality
from matryoshka2d.planning.budget import Budget, Row
from matryoshka2d.size import Size

DOCUMENTS = 1000


def row(size: str, kept: float, latency: float = 0.001, **more: Any) -> Row:
    """Return the row of a size whose interval is one percent to either side."""
    one = Size.parse(size)
    values = {
        "score": 80 * kept,
        "score_low": 80 * kept - 1,
        "score_high": 80 * kept + 1,
        "kept": kept,
        "kept_low": kept - 0.01 if kept != 1 else 1.0,
        "kept_high": kept + 0.01 if kept != 1 else 1.0,
        "latency_p50": latency / 2,
        "latency_p95": latency,
        "throughput": 1 / latency,
        "memory": 1e8 * one.layers,
        "vector": 4 * one.dims,
        "index": 4.0 * one.dims * DOCUMENTS,
    }
    return Row(one, **{**values, **more})


def margin(points: float, rows: tuple[Row, ...]) -> Callable[[Size, Size], bool]:
    """Return a `better` in which a lead of so many points is needed."""
    scores = {one.size: one.score for one in rows}
    return lambda size, other: scores[size] - scores[other] > points


def made_quality(scores: dict[str, float], half: float = 0.01, **more: Any) -> Quality:
    """Return a quality with these means; shares are sure to `half`, leads to half a point."""
    sizes = tuple(sorted(map(Size.parse, scores)))
    values = np.array([scores[str(size)] for size in sizes])
    shares = values / values[-1]
    reach = np.where(np.arange(len(sizes)) == len(sizes) - 1, 0.0, half)
    return Quality(
        Grid(sizes, {"stsb": tuple(values.tolist())}),
        np.stack([values - 1, values + 1], axis=1),
        np.stack([shares, shares - reach, shares + reach], axis=1),
        np.full((len(sizes), len(sizes)), 0.5),
        {"stsb": 1379},
        **more,
    )


def made_costs(layers: int, a_layer: float = 0.001) -> Costs:
    """Return costs that rise evenly with depth."""
    return Costs(
        {
            n: Cost(n * a_layer / 2, n * a_layer, 1 / (n * a_layer), 1e8 * (1 + n))
            for n in range(1, layers + 1)
        }
    )


# --- hypothesis ---------------------------------------------------------------------------------------


@st.composite
def tables(draw: st.DrawFn) -> tuple[tuple[Row, ...], Callable[[Size, Size], bool]]:
    """Draw rows of a grid with arbitrary scores and latencies, and an arbitrary partial `better`."""
    layers = draw(st.integers(1, 4))
    widths = draw(st.lists(st.sampled_from([8, 16, 32, 64]), min_size=1, max_size=4, unique=True))
    sizes = [Size(n, d) for n in range(1, layers + 1) for d in sorted(widths)]
    latencies = draw(st.lists(st.floats(1e-4, 1e-1), min_size=layers, max_size=layers))
    rows = []
    for size in sizes:
        kept = draw(st.floats(0.2, 1.1) | st.just(math.nan))
        low = draw(st.floats(0, 0.2))
        rows.append(
            row(str(size), kept, latencies[size.layers - 1], kept_low=kept - low, kept_high=kept + low)
        )
    # Which of two may be told apart is arbitrary, and need not be transitive.
    sure = draw(st.lists(st.booleans(), min_size=len(sizes) ** 2, max_size=len(sizes) ** 2))
    scores = {one.size: one.score for one in rows}
    told_apart = {(a, b): sure[i * len(sizes) + j] for i, a in enumerate(sizes) for j, b in enumerate(sizes)}

    def better(size: Size, other: Size) -> bool:
        return told_apart[size, other] and scores[size] > scores[other]

    return tuple(rows), better


def budgets() -> st.SearchStrategy[Budget]:
    """Draw budgets with any combination of limits."""
    return st.builds(
        Budget,
        max_latency=st.none() | st.floats(1e-4, 2e-1),
        min_throughput=st.none() | st.floats(5, 2e4),
        max_memory=st.none() | st.floats(5e7, 6e8),
        max_index=st.none() | st.floats(1e3, 1e6),
        min_quality=st.none() | st.floats(0.1, 1.0),
        documents=st.just(DOCUMENTS),
    )
