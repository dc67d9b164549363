"""Which texts run together: consecutive texts, ordered by length, up to a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from matryoshka2d.inference.tokens import Integers


def packed_batches(lengths: Integers, budget: int) -> Iterator[slice]:
    """Yield slices of texts that together have at most `budget` tokens, or are one longer text.

    Parameters
    ----------
    lengths
        int64 [texts], ascending.
    budget
        Tokens a batch.

    Examples
    --------
    >>> list(packed_batches(np.array([2, 2, 3, 9]), 5))
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    ends = np.cumsum(lengths)
    start, done = 0, 0
    while start < len(lengths):
        stop = max(start + 1, int(np.searchsorted(ends, done + budget, side="right")))
        yield slice(start, stop)
        start, done = stop, int(ends[stop - 1])


def padded_batches(lengths: Integers, budget: int, waste: float) -> Iterator[slice]:
    """Yield slices of texts that, padded to their longest, stay within a budget and pad little.

    Parameters
    ----------
    lengths
        int64 [texts], ascending.
    budget
        Tokens a batch, padding included.
    waste
        Largest share of a batch that may be padding; 0 for texts of one length alone.

    Examples
    --------
    >>> list(padded_batches(np.array([2, 2, 3, 9]), 100, 0.25))
    [slice(0, 3, None), slice(3, 4, None)]
    """
    ends = np.concatenate([[0], np.cumsum(lengths)])
    start = 0
    while start < len(lengths):
        rows = np.arange(1, len(lengths) - start + 1)
        cells = rows * lengths[start:]
        padding = cells - (ends[start + 1 :] - ends[start])
        fits = (cells <= budget) & (padding <= waste * cells)
        stop = start + max(1, int(np.argmin(fits)) if not fits.all() else len(rows))
        yield slice(start, stop)
        start = stop
