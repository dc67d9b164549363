"""Index bytes are computed; times are those of the calls that were made, the sizes in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.cost import (
    Cost,
    Costs,
    index_bytes,
    measure_costs,
    time_single_texts,
    vector_bytes,
)
from matryoshka2d.size import Size

TEXTS = [f"text {i}" for i in range(20)]


class Sleeper:
    """Takes two milliseconds a layer and call, and remembers the calls."""

    depth, width = 3, 16

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[str, ...], Size]] = []

    def embed(self, texts: Sequence[str], size: str | Size | None = None) -> None:
        assert isinstance(size, Size)
        self.calls.append((tuple(texts), size))
        time.sleep(0.002 * size.layers)


@pytest.mark.parametrize(
    ("dims", "precision", "expected"),
    [(128, "float32", 512), (128, "int8", 128), (128, "binary", 16), (12, "binary", 2), (1, "binary", 1)],
)
def test_bytes_of_a_vector(dims: int, precision: str, expected: int) -> None:
    assert vector_bytes(dims, precision) == expected


@given(st.integers(1, 4096), st.integers(1, 10**9))
def test_an_index_is_as_large_as_the_arrays_it_holds(dims: int, documents: int) -> None:
    assert vector_bytes(dims) == np.zeros(dims, np.float32).nbytes
    assert vector_bytes(dims, "int8") == np.zeros(dims, np.int8).nbytes
    assert vector_bytes(dims, "binary") == np.packbits(np.zeros(dims, bool)).nbytes
    assert index_bytes(dims, documents, "int8") == documents * dims


def test_depths_take_turns_and_deeper_ones_cost_more() -> None:
    sleeper = Sleeper()
    costs = measure_costs(
        sleeper, [1, 3], [*TEXTS, *TEXTS], seconds=0.1, memory={1: 5.0}, details={"engine": "x"}
    )
    one, three = costs.of(Size(1, 8)), costs.of(Size(3, 16))
    assert 0.002 <= one.latency_p50 <= one.latency_p95
    assert three.latency_p50 >= 0.006
    assert three.latency_p50 > one.latency_p50
    assert one.throughput > three.throughput
    assert one.memory == 5.0
    assert np.isnan(three.memory)
    assert costs.details == {"engine": "x", "timed texts": 20}
    assert costs.to_dict()["depths"]["3"]["memory"] is None
    singles = [(texts[0], size) for texts, size in sleeper.calls[10:] if len(texts) == 1]
    # Both depths meet the same text before either meets the next one.
    assert all(singles[i][0] == singles[i + 1][0] for i in range(0, len(singles) - 1, 2))
    assert {size for _, size in singles[:2]} == {Size(1, 16), Size(3, 16)}


def test_every_size_is_timed_on_the_same_texts_as_often() -> None:
    timings = time_single_texts(Sleeper().embed, [Size(1, 8), Size(2, 8)], TEXTS, seconds=0.01)
    assert {len(values) for values in timings.values()} == {60}


def test_without_texts_or_with_a_depth_that_is_not_there_nothing_is_timed() -> None:
    with pytest.raises(UserError, match="no text to time"):
        measure_costs(Sleeper(), [1], [])
    with pytest.raises(UserError, match="too deep"):
        measure_costs(Sleeper(), [4], TEXTS)
    with pytest.raises(UserError, match="2 layers was not measured"):
        Costs({1: Cost(1.0, 1.0, 1.0)}).of(Size(2, 8))
