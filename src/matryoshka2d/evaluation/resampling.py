"""A method's scores, as measured and on resamples of the sentence pairs or queries.

Which pairs a set happens to hold is chance. A bootstrap draws them anew; the pairs of a resample are the same
for every seed, size and method, so that comparisons are paired: what is hard for both methods cancels. What
`matryoshka2d.evaluation.intervals` reads is made here, once for each method. Everything is arrays: no models,
no files.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.correlation import spearman
from matryoshka2d.evaluation.cosine import Floats
from matryoshka2d.evaluation.grid import MEAN

_BLOCK = 32


@dataclass(frozen=True)
class Replicates:
    """Scores of a method, as measured and under resamples of the pairs, for every seed and size.

    Made by `bootstrap_spearman` or `bootstrap_means`. Two methods' replicates are paired if they were made
    with the same number of resamples and the same `seed` on the same sets.

    Parameters
    ----------
    scores
        Set name → float64 [seeds, sizes]: the score on all pairs, times 100.
    draws
        Set name → float64 [resamples, seeds, sizes]: the score on each resample of the pairs, times 100.
    """

    scores: Mapping[str, Floats]
    draws: Mapping[str, Floats]

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the sets."""
        return tuple(self.scores)

    def of(self, set_name: str = MEAN) -> tuple[Floats, Floats]:
        """Return scores [seeds, sizes] and draws [resamples, seeds, sizes] of a set, or of their mean."""
        if set_name != MEAN:
            return self.scores[set_name], self.draws[set_name]
        scores = np.mean(list(self.scores.values()), axis=0)
        draws = sum(self.draws.values()) / len(self.draws)
        return scores, np.asarray(draws)

    def take(self, positions: Sequence[int]) -> Replicates:
        """Return the replicates of some sizes, by their positions."""
        columns = list(positions)
        return Replicates(
            {name: values[:, columns] for name, values in self.scores.items()},
            {name: values[:, :, columns] for name, values in self.draws.items()},
        )


def bootstrap_spearman(
    cosines: Mapping[str, NDArray[Any]],
    gold: Mapping[str, NDArray[Any]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Replicates:
    """Return Spearman's correlation x100 of every seed and size, on all pairs and on resamples of them.

    Parameters
    ----------
    cosines
        Set name → float [seeds, pairs, sizes], as from ``EncodedSts.cosines``; [pairs, sizes] is one seed.
    gold
        Set name → float [pairs].
    resamples
        How often the pairs are drawn anew. The default tells 95% bounds to about a twentieth of their
        width; raise it to 10,000 for a figure that decides something close.
    seed
        Draws the pairs. Methods that are compared need the same.

    Returns
    -------
    Replicates
        Ranks are those within each resample, ties at their mean rank: no approximation.

    Raises
    ------
    UserError
        If shapes do not fit, or there are fewer than two resamples.

    Examples
    --------
    >>> gold = {"toy": np.arange(8.0)}
    >>> cosines = {"toy": np.arange(8.0)[None, :, None] ** 2}
    >>> replicates = bootstrap_spearman(cosines, gold, resamples=20)
    >>> replicates.scores["toy"].tolist(), replicates.draws["toy"].shape
    ([[100.0]], (20, 1, 1))
    """
    tables = _checked(cosines, gold, resamples)
    scores, draws = {}, {}
    for name, values in tables.items():
        seeds, pairs, sizes = values.shape
        columns = values.transpose(1, 0, 2).reshape(pairs, seeds * sizes)
        target = np.asarray(gold[name], dtype=np.float64)
        counts = _pair_counts(name, pairs, resamples, seed)
        scores[name] = 100 * spearman(columns, target).reshape(seeds, sizes)
        draws[name] = 100 * weighted_spearman(columns, target, counts).reshape(resamples, seeds, sizes)
    return Replicates(scores, draws)


def bootstrap_means(
    scores: Mapping[str, NDArray[Any]], *, resamples: int = 1000, seed: int = 0
) -> Replicates:
    """Return the mean x100 of every seed and size, over all queries and over resamples of them.

    Parameters
    ----------
    scores
        Set name → float [seeds, queries, sizes] between 0 and 1, such as the nDCG of each query.
    resamples, seed
        As in `bootstrap_spearman`.
    """
    tables = _checked(scores, None, resamples)
    means = {name: 100 * values.mean(axis=1) for name, values in tables.items()}
    draws = {}
    for name, values in tables.items():
        counts = _pair_counts(name, values.shape[1], resamples, seed)
        draws[name] = 100 * np.einsum("qb,sqn->bsn", counts / values.shape[1], values)
    return Replicates(means, draws)


def _checked(
    values: Mapping[str, NDArray[Any]], gold: Mapping[str, NDArray[Any]] | None, resamples: int
) -> dict[str, Floats]:
    """Return the values as float64 [seeds, pairs, sizes], or say what does not fit."""
    if not values or resamples < 2:
        raise UserError(
            f"{len(values)} sets and {resamples} resamples: expected at least one set and two resamples"
        )
    tables: dict[str, Floats] = {}
    for name, given in values.items():
        table = np.asarray(given, dtype=np.float64)
        table = table[None] if table.ndim == 2 else table
        if table.ndim != 3 or 0 in table.shape:
            raise UserError(f"set {name}: scores of shape {table.shape}, expected [seeds, pairs, sizes]")
        if gold is not None and (name not in gold or np.shape(gold[name]) != (table.shape[1],)):
            raise UserError(f"set {name}: expected one gold score for each of {table.shape[1]} pairs")
        tables[name] = table
    shapes = {(table.shape[0], table.shape[2]) for table in tables.values()}
    if len(shapes) > 1:
        raise UserError("the sets differ in their seeds or sizes: expected the same for all")
    return tables


def _pair_counts(name: str, pairs: int, resamples: int, seed: int) -> Floats:
    """Return how often each pair is in each resample: float64 [pairs, resamples].

    A function of the set's name and size alone, so that every method meets the same resamples.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    counts = np.empty((pairs, resamples))
    for column in range(resamples):
        counts[:, column] = np.bincount(random.integers(pairs, size=pairs), minlength=pairs)
    return counts


def weighted_spearman(values: Floats, gold: Floats, counts: Floats) -> Floats:
    """Return Spearman's correlation of each column with the gold when row i stands there counts[i] times.

    Equals ``scipy.stats.spearmanr`` on the repeated rows. The values are sorted once; the rank of a row in
    a resample is then read from the running sum of the counts in that order.

    Parameters
    ----------
    values
        Float [rows, columns].
    gold
        Float [rows].
    counts
        Float [rows, resamples], whole numbers of at least 0, with the same sum in every column.

    Returns
    -------
    numpy.ndarray
        Float64 [resamples, columns]; nan where a column or the gold does not vary in the resample.

    Examples
    --------
    >>> values = np.array([[1.0], [3.0], [2.0]])
    >>> weighted_spearman(values, np.array([1.0, 2.0, 3.0]), np.array([[1.0], [1.0], [1.0]])).tolist()
    [[0.5]]
    """
    results = np.empty((counts.shape[1], values.shape[1]))
    sorted_columns = [_Sorted.of(values[:, column]) for column in range(values.shape[1])]
    sorted_gold = _Sorted.of(gold)
    for start in range(0, counts.shape[1], _BLOCK):
        block = np.ascontiguousarray(counts[:, start : start + _BLOCK])
        total = block.sum(axis=0)
        gold_ranks = np.empty_like(block)
        ranks, gold_spread = sorted_gold.ranks(block, total)
        gold_ranks[sorted_gold.order] = ranks
        # The mean of the ranks is (total + 1) / 2 whatever the ties.
        weights = block * (gold_ranks - (total + 1) / 2)
        for column, one in enumerate(sorted_columns):
            ranks, spread = one.ranks(block, total)
            covariance = np.einsum("rb,rb->b", ranks, weights[one.order])
            with np.errstate(invalid="ignore", divide="ignore"):
                correlation = covariance / np.sqrt(spread * gold_spread)
            results[start : start + _BLOCK, column] = np.clip(correlation, -1.0, 1.0)
    return results


@dataclass(frozen=True)
class _Sorted:
    """A column in ascending order, with its groups of equal values.

    Parameters
    ----------
    order
        Int [rows]: the rows, lowest value first.
    tied
        Int [tied rows]: positions in the order whose value another row shares.
    first, last
        Int [tied rows]: where the group of each of them begins, and where the next one begins.
    """

    order: NDArray[np.int64]
    tied: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, values: Floats) -> _Sorted:
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf) != 0)
        lengths = np.diff(starts, append=len(values))
        first, last = np.repeat(starts, lengths), np.repeat(starts + lengths, lengths)
        tied = np.flatnonzero(np.repeat(lengths, lengths) > 1)
        return cls(order, tied, first[tied], last[tied])

    def ranks(self, counts: Floats, total: Floats) -> tuple[Floats, Floats]:
        """Return the mid-rank of each row, in ascending order, and the sum of squares about their mean."""
        own = counts[self.order]
        upto = np.cumsum(own, axis=0)
        group = own
        ranks = upto - (own - 1) / 2
        if len(self.tied):
            below = np.concatenate([np.zeros((1, counts.shape[1])), upto])
            low, high = below[self.first], below[self.last]
            ranks[self.tied] = (low + high + 1) / 2
            group = own.copy()
            group[self.tied] = high - low
        # Each of the own[i] copies has group[i] - 1 others at its value.
        spread = (total**3 - np.einsum("rb,rb,rb->b", own, group, group)) / 12
        return ranks, spread
