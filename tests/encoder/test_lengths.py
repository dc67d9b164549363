"""Slices of texts ordered by length hold every text once, and keep to their limits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.encoder.lengths import even_slices, packed_slices, padded_slices, similar_slices

LENGTHS = (
    st.lists(st.integers(1, 512), max_size=80)
    .map(sorted)
    .map(lambda values: np.array(values, dtype=np.int64))
)


def parts(lengths: np.ndarray, slices: Iterator[slice]) -> list[np.ndarray]:
    """Return the lengths in each slice; together they are all, the longest first."""
    found = [lengths[some] for some in slices]
    assert np.concatenate([*reversed(found), []]).tolist() == lengths.tolist()
    assert all(len(part) for part in found)
    return found


@given(LENGTHS, st.integers(1, 600))
def test_packed_slices(lengths: np.ndarray, tokens: int) -> None:
    found = parts(lengths, packed_slices(lengths, tokens))
    assert all(part.sum() <= tokens or len(part) == 1 for part in found)
    # None had room for the longest text of the next one.
    assert all(a.sum() + b[-1] > tokens for a, b in pairwise(found))


@given(
    LENGTHS,
    st.integers(1, 2000),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(1, 4),
    st.none() | st.integers(4, 9),
)
def test_padded_slices(lengths: np.ndarray, tokens: int, waste: float, fewest: int, most: int | None) -> None:
    found = parts(lengths, padded_slices(lengths, tokens, waste=waste, fewest=fewest, most=most))

    def fits(part: np.ndarray) -> bool:
        cells = len(part) * part.max()
        return bool(cells <= tokens and cells - part.sum() <= waste * cells and len(part) <= (most or 80))

    assert all(fits(part) or len(part) <= fewest for part in found)
    assert all(len(part) >= fewest for part in found[:-1])
    assert not any(fits(np.append(b[-1:], a)) for a, b in pairwise(found))


@given(LENGTHS, st.integers(1, 30))
def test_even_slices(lengths: np.ndarray, texts: int) -> None:
    found = parts(lengths, even_slices(lengths, texts))
    assert len(found) <= -(-len(lengths) // texts)
    assert all(len(part) <= texts for part in found)
    assert len({len(part) for part in found[:-1]}) <= 1


@given(LENGTHS)
def test_similar_slices(lengths: np.ndarray) -> None:
    found = parts(lengths, similar_slices(lengths, times=3, more=16))
    assert all(part[-1] <= 3 * part[0] + 16 for part in found)
    assert all(a[-1] > 3 * b[-1] + 16 for a, b in pairwise(found))
    assert len(found) <= 5
