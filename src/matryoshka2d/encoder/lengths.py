"""Which texts run together: neighbors in length, so that little is padded.

Every function takes the lengths of texts in ascending order and yields slices of them that hold every text
once. The longest come first: memory peaks at once, and what is left over at the end is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]
"""int64 [texts], ascending."""
Slices = Callable[[Lengths], Iterator[slice]]


def packed_slices(lengths: Lengths, tokens: int) -> Iterator[slice]:
    """Yield slices of texts that together have at most so many tokens, or are one longer text.

    >>> list(packed_slices(np.array([2, 2, 3, 9]), 5))
    [slice(3, 4, None), slice(1, 3, None), slice(0, 1, None)]
    """
    before = np.concatenate([[0], np.cumsum(lengths)])
    stop = len(lengths)
    while stop:
        start = min(stop - 1, int(np.searchsorted(before, before[stop] - tokens)))
        yield slice(start, stop)
        stop = start


def padded_slices(
    lengths: Lengths, tokens: int, *, waste: float = 1.0, fewest: int = 1, most: int | None = None
) -> Iterator[slice]:
    """Yield slices of texts that, padded to their longest, stay within a budget and pad little.

    Parameters
    ----------
    lengths
        Of the texts, ascending.
    tokens
        Tokens of a slice, padding included.
    waste
        Largest share of a slice that may be padding; 0 for texts of one length alone.
    fewest
        Texts of a slice, even if they have more tokens or waste more.
    most
        The most texts of a slice.

    Examples
    --------
    >>> list(padded_slices(np.array([2, 2, 3, 9]), 100, waste=0.25))
    [slice(3, 4, None), slice(0, 3, None)]
    >>> list(padded_slices(np.array([2, 2, 3, 9]), 1, fewest=3))
    [slice(1, 4, None), slice(0, 1, None)]
    """
    before = np.concatenate([[0], np.cumsum(lengths)])
    stop = len(lengths)
    while stop:
        texts = np.arange(1, min(stop, most or stop) + 1)
        cells = texts * lengths[stop - 1]
        padding = cells - (before[stop] - before[stop - texts])
        fits = (cells <= tokens) & (padding <= waste * cells)
        count = len(texts) if fits.all() else int(np.argmin(fits))
        start = stop - min(stop, max(fewest, count))
        yield slice(start, stop)
        stop = start


def even_slices(lengths: Lengths, texts: int) -> Iterator[slice]:
    """Yield slices of no more than so many texts, as even as can be.

    >>> list(even_slices(np.array([1, 5, 7, 9]), 3))
    [slice(2, 4, None), slice(0, 2, None)]
    """
    count = len(lengths)
    step = max(1, -(-count // max(1, -(-count // texts))))
    for stop in range(count, 0, -step):
        yield slice(max(0, stop - step), stop)


def similar_slices(lengths: Lengths, times: int, more: int) -> Iterator[slice]:
    """Yield few slices whose longest text has at most `times` the tokens of the shortest, and `more`.

    >>> list(similar_slices(np.array([5, 9, 31, 90]), times=3, more=16))
    [slice(2, 4, None), slice(0, 2, None)]
    """
    stop = len(lengths)
    while stop:
        start = int(np.searchsorted(lengths, -(-(lengths[stop - 1] - more) // times)))
        yield slice(start, stop)
        stop = start
