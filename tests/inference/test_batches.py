"""Batches hold every text once, within their budget."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.inference.request_batching import packed_batches, padded_batches

LENGTHS = (
    st.lists(st.integers(1, 300), max_size=80)
    .map(sorted)
    .map(lambda values: np.array(values, dtype=np.int64))
)


@given(LENGTHS, st.integers(1, 600))
def test_packed_batches(lengths: np.ndarray, budget: int) -> None:
    parts = [lengths[rows] for rows in packed_batches(lengths, budget)]
    assert np.concatenate([*parts, []]).tolist() == lengths.tolist()
    assert all(part.sum() <= budget or len(part) == 1 for part in parts)
    # No batch could have taken the first text of the next one.
    assert all(a.sum() + b[0] > budget for a, b in pairwise(parts))


@given(LENGTHS, st.integers(1, 2000), st.sampled_from([0.0, 0.1, 0.5]))
def test_padded_batches(lengths: np.ndarray, budget: int, waste: float) -> None:
    parts = [lengths[rows] for rows in padded_batches(lengths, budget, waste)]
    assert np.concatenate([*parts, []]).tolist() == lengths.tolist()
    for part in parts:
        cells = len(part) * part.max()
        assert len(part) == 1 or (cells <= budget and cells - part.sum() <= waste * cells)
