"""Cosines at many widths at once: sums over the pieces between two widths are added up, never repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.errors import UserError, did_you_mean

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32] | NDArray[np.float64]
Indices = NDArray[np.int64]

_PAIRS_A_BLOCK = 8192
_CELLS_A_BLOCK = 2**24

ROUNDING = 1e-5
"""Vectors of unit length that are nearer than this differ by the rounding of float32 alone."""

_SAME = 1 - ROUNDING**2 / 2


def pair_cosines(vectors: Vectors, pairs: Indices, dims: Sequence[int]) -> Floats:
    """Return the cosine of each pair of rows at each width, cut first and normalized after.

    Parameters
    ----------
    vectors
        Float [texts, width].
    pairs
        Int [pairs, 2]: row numbers of `vectors`.
    dims
        Ascending widths.

    Returns
    -------
    numpy.ndarray
        Float64 [pairs, len(dims)]; 0 where a cut vector is all zeros. Vectors that differ by rounding alone
        have a cosine of 1 exactly, so that no rank is made of the last bits.

    Examples
    --------
    >>> vectors = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, -1.0]])
    >>> pair_cosines(vectors, np.array([[0, 1]]), [2, 3]).tolist()
    [[1.0, 0.0]]
    """
    cosines = np.empty((len(pairs), len(dims)))
    for start in range(0, len(pairs), _PAIRS_A_BLOCK):
        block = pairs[start : start + _PAIRS_A_BLOCK]
        left, right = vectors[block[:, 0]], vectors[block[:, 1]]
        lengths = np.sqrt(_prefix_dots(left, left, dims) * _prefix_dots(right, right, dims))
        cosines[start : start + _PAIRS_A_BLOCK] = _divide(_prefix_dots(left, right, dims), lengths)
    return _with_exact_ends(cosines)


def aligned_cosines(left: Vectors, right: Vectors, dims: Sequence[int]) -> Floats:
    """Return the cosine of row i of one array with row i of the other: float64 [rows, len(dims)]."""
    rows = np.arange(len(left), dtype=np.int64)
    return pair_cosines(np.concatenate([left, right]), np.stack([rows, rows + len(left)], axis=1), dims)


def block_cosines(
    queries: Vectors, documents: Vectors, dims: Sequence[int]
) -> Iterator[tuple[slice, int, Floats]]:
    """Yield every query against every document at each width, in blocks of queries.

    Parameters
    ----------
    queries, documents
        Float [queries, width] and [documents, width].
    dims
        Ascending widths.

    Yields
    ------
    slice, int, numpy.ndarray
        The rows of the queries, the position in `dims`, and float64 [rows, documents], a fresh array.
        One block is at most 128 MiB unless a single query against all documents is more.
    """
    targets = documents.astype(np.float64)
    lengths = np.sqrt(_prefix_dots(documents, documents, dims))
    step = max(1, _CELLS_A_BLOCK // max(1, len(documents)))
    for start in range(0, len(queries), step):
        rows = slice(start, min(start + step, len(queries)))
        block = queries[rows].astype(np.float64)
        own_lengths = np.sqrt(_prefix_dots(block, block, dims))
        dots = np.zeros((len(block), len(documents)))
        for position, (first, last) in enumerate(_pieces(dims)):
            dots += block[:, first:last] @ targets[:, first:last].T
            # Equal documents may differ in the last bit of a matrix product; rounding keeps them tied.
            cosines = _divide(dots, own_lengths[:, position, None] * lengths[None, :, position])
            yield rows, position, _with_exact_ends(np.round(cosines, 12))


def top_k(scores: Floats, k: int) -> Indices:
    """Return the columns of the k highest scores of each row, best first; the earlier column wins a tie.

    Parameters
    ----------
    scores
        Float [rows, columns].
    k
        How many to keep; all columns if there are fewer.

    Returns
    -------
    numpy.ndarray
        Int64 [rows, min(k, columns)].

    Examples
    --------
    >>> top_k(np.array([[0.1, 0.7, 0.7, 0.9]]), 2).tolist()
    [[3, 1]]
    """
    k = min(k, scores.shape[1])
    if k == 0:
        return np.empty((len(scores), 0), dtype=np.int64)
    columns = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    lowest = np.take_along_axis(scores, columns, axis=1).min(axis=1, keepdims=True)
    # Where a tie runs across the k-th place, the partition has picked any of the tied columns.
    for row in np.flatnonzero((scores >= lowest).sum(axis=1) > k):
        columns[row] = np.argsort(-scores[row], kind="stable")[:k]
    columns.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1).astype(np.int64)


def _pieces(dims: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip([0, *dims[:-1]], dims, strict=True))


def _prefix_dots(left: Vectors, right: Vectors, dims: Sequence[int]) -> Floats:
    """Return the dot products of aligned rows over each prefix: float64 [rows, len(dims)]."""
    sums = np.empty((len(left), len(dims)))
    for position, (first, last) in enumerate(_pieces(dims)):
        pieces = (side[:, first:last].astype(np.float64) for side in (left, right))
        sums[:, position] = np.einsum("rd,rd->r", *pieces)
    return np.cumsum(sums, axis=1)


def look_alike(vectors: Vectors) -> bool:
    """Return whether all rows point the same way, up to rounding: the vectors of a collapsed model.

    >>> look_alike(np.array([[1.0, 2.0], [2.0, 4.0000001]])), look_alike(np.array([[1.0, 2.0], [1.0, 2.1]]))
    (True, False)
    """
    rows = np.arange(len(vectors), dtype=np.int64)
    pairs = np.stack([np.zeros_like(rows), rows], axis=1)
    return bool((pair_cosines(vectors, pairs, [vectors.shape[1]]) == 1).all())


def _with_exact_ends(cosines: Floats) -> Floats:
    """Make 1 and -1 of cosines that differ from them by rounding, in place."""
    cosines[cosines > _SAME] = 1
    cosines[cosines < -_SAME] = -1
    return cosines


def _divide(dots: Floats, lengths: Floats) -> Floats:
    return np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)


Correlation = Callable[[Floats, Floats], Floats]


def pearson(values: Floats, gold: Floats) -> Floats:
    """Return Pearson's correlation of each column with the gold; nan if either never varies.

    Parameters
    ----------
    values
        Float [rows, columns].
    gold
        Float [rows].

    Examples
    --------
    >>> pearson(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]), np.array([1.0, 2.0, 3.0])).tolist()
    [1.0, -1.0]
    """
    left, right = values - values.mean(axis=0), gold - gold.mean()
    lengths = np.sqrt((left**2).sum(axis=0) * (right**2).sum())
    varies = (np.ptp(values, axis=0) > 0) & (np.ptp(gold) > 0)
    undefined = np.full(values.shape[1], np.nan)
    correlations: Floats = np.divide(right @ left, lengths, out=undefined, where=varies)
    return np.clip(correlations, -1.0, 1.0)


def spearman(values: Floats, gold: Floats) -> Floats:
    """Return Spearman's rank correlation of each column with the gold; ties share their mean rank.

    Equals ``scipy.stats.spearmanr`` column by column.

    >>> spearman(np.array([[1.0], [10.0], [100.0]]), np.array([1.0, 2.0, 3.0])).tolist()
    [1.0]
    """
    from scipy.stats import rankdata

    return pearson(rankdata(values, axis=0), rankdata(gold))


CORRELATIONS: dict[str, Correlation] = {"spearman": spearman, "pearson": pearson}
"""Name of a metric → its function."""


def correlation_of(metric: str) -> Correlation:
    """Return the function of a metric, or raise a `UserError` that lists the known ones."""
    if metric not in CORRELATIONS:
        known = ", ".join(CORRELATIONS)
        raise UserError(
            f"metric '{metric}' is not known: expected one of {known}.{did_you_mean(metric, CORRELATIONS)}"
        )
    return CORRELATIONS[metric]
