"""A method's scores, as measured and on resamples of the sentence pairs or queries.

Which pairs a set happens to hold is chance. A bootstrap draws them anew; the pairs of a resample are the same
for every seed, size and method, so that comparisons are paired: what is hard for both methods cancels. What
`matryoshka2d.evaluation.bootstrap` reads is made here, once for each method. Everything is arrays: no models,
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
from matryoshka2d.evaluation.cosine import Floats, spearman
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


LEVEL = 0.95
"""Coverage of every interval."""

MARGIN = 0.3
"""Points that a size may be worse and still count as at least as good."""


@dataclass(frozen=True)
class Intervals:
    """Estimates with 95% intervals: one for every size, and one for the mean over sizes.

    Parameters
    ----------
    estimate
        Float64 [sizes].
    low, high
        Float64 [sizes]: the interval of each size by itself.
    lower, upper
        Float64 [sizes]: the simultaneous intervals. With 95% confidence all sizes lie in theirs at once,
        so that one may point at any cell of the grid without having picked a lucky one.
    mean
        Estimate, low and high of the mean over sizes.
    seeds
        How many seeds the method has, or both methods; 1 means that the interval is over pairs alone.
    """

    estimate: Floats
    low: Floats
    high: Floats
    lower: Floats
    upper: Floats
    mean: tuple[float, float, float]
    seeds: tuple[int, ...]

    def at_least_as_good(self, margin: float = MARGIN) -> NDArray[np.bool_]:
        """Return bool [sizes]: the simultaneous lower bound lies above minus the margin."""
        return np.asarray(self.lower > -margin)

    @property
    def better(self) -> NDArray[np.bool_]:
        """Bool [sizes]: the simultaneous lower bound lies above 0."""
        return np.asarray(self.lower > 0)

    @property
    def worse(self) -> NDArray[np.bool_]:
        """Bool [sizes]: the simultaneous upper bound lies below 0."""
        return np.asarray(self.upper < 0)

    def to_dict(self, sizes: Sequence[object]) -> dict[str, Any]:
        """Return everything as JSON values, one entry a size."""
        rows = zip(sizes, self.estimate, self.low, self.high, self.lower, self.upper, strict=True)
        return {
            "seeds": list(self.seeds),
            "mean over sizes": [round(float(value), 4) for value in self.mean],
            "sizes": {str(size): [round(float(value), 4) for value in values] for size, *values in rows},
        }


def score_intervals(method: Replicates, *, set_name: str = MEAN, seed: int = 0) -> Intervals:
    """Return the intervals of a method's scores; estimates are means over its seeds.

    Parameters
    ----------
    method
        What `bootstrap_spearman` or `bootstrap_means` gives.
    set_name
        One set, or the mean over sets.
    seed
        Draws the seeds of training anew.
    """
    scores, draws = method.of(set_name)
    return _intervals([_Part(scores, draws)], seed)


def compare(
    method: Replicates,
    other: Replicates,
    *,
    paired_seeds: bool = True,
    set_name: str = MEAN,
    seed: int = 0,
) -> Intervals:
    """Return the intervals of a method's lead over another: positive where the first is better.

    Parameters
    ----------
    method, other
        Replicates of the same sets and sizes, made with the same `seed` and number of resamples.
    paired_seeds
        Whether row i of both belongs to the same seed. Set it to False where the seeds differ; a method with
        another number of seeds, such as the original model, is never paired over seeds.
    set_name
        One set, or the mean over sets.
    seed
        Draws the seeds of training anew.

    Raises
    ------
    UserError
        If the two have other sizes or another number of resamples.

    Examples
    --------
    >>> from matryoshka2d.evaluation import bootstrap_spearman
    >>> random = np.random.default_rng(0)
    >>> gold = random.normal(size=200)
    >>> good, bad = (gold[:, None] + noise * random.normal(size=(200, 1)) for noise in (0.5, 2.0))
    >>> replicates = [bootstrap_spearman({"toy": c}, {"toy": gold}, resamples=200) for c in (good, bad)]
    >>> compare(*replicates).better.tolist()
    [True]
    """
    (scores, draws), (other_scores, other_draws) = method.of(set_name), other.of(set_name)
    if draws.shape[::2] != other_draws.shape[::2]:
        raise UserError(
            f"{draws.shape[2]} sizes and {draws.shape[0]} resamples against {other_draws.shape[2]} and "
            f"{other_draws.shape[0]}: expected the same of both methods"
        )
    if paired_seeds and scores.shape == other_scores.shape:
        return _intervals([_Part(scores - other_scores, draws - other_draws)], seed)
    return _intervals([_Part(scores, draws), _Part(-other_scores, -other_draws)], seed)


def against_size(
    method: Replicates, position: int = -1, *, share: bool = False, set_name: str = MEAN, seed: int = 0
) -> Intervals:
    """Return the intervals of every size of one model relative to one of its sizes.

    Parameters
    ----------
    method
        Its replicates; one seed is enough, the interval is then over pairs alone.
    position
        Which size the others are held against; the last, the full size, by default.
    share
        Whether to give percent of that size's score instead of the difference in points.
    set_name
        One set, or the mean over sets.
    seed
        Draws the seeds of training anew.

    Examples
    --------
    >>> from matryoshka2d.evaluation import bootstrap_spearman
    >>> random = np.random.default_rng(0)
    >>> gold = random.normal(size=500)
    >>> cosines = gold[:, None] + random.normal(size=(500, 2)) * [2.0, 0.5]
    >>> kept = against_size(bootstrap_spearman({"toy": cosines}, {"toy": gold}, resamples=100), share=True)
    >>> kept.estimate[1], bool(kept.upper[0] < 100)
    (np.float64(100.0), True)
    """
    scores, draws = method.of(set_name)
    own, own_draws = scores[:, [position]], draws[:, :, [position]]
    if share:
        return _intervals([_Part(100 * scores / own, 100 * draws / own_draws)], seed)
    return _intervals([_Part(scores - own, draws - own_draws)], seed)


def share_of(method: Replicates, full: Replicates, *, set_name: str = MEAN, seed: int = 0) -> Intervals:
    """Return the intervals of a method's scores as percent of another's single size.

    Parameters
    ----------
    method
        Replicates of any sizes.
    full
        Replicates of one size, such as the full size of a model that was trained for it alone, made with the
        same `seed` and number of resamples. With the same number of seeds they are paired, else the mean
        over its seeds counts.
    set_name
        One set, or the mean over sets.
    seed
        Draws the seeds of training anew.
    """
    (scores, draws), (other_scores, other_draws) = method.of(set_name), full.of(set_name)
    if other_scores.shape[1] != 1 or len(draws) != len(other_draws):
        raise UserError("a share is of one size, resampled as often as the method")
    if len(scores) != len(other_scores):
        other_scores, other_draws = other_scores.mean(axis=0), other_draws.mean(axis=1, keepdims=True)
    return _intervals([_Part(100 * scores / other_scores, 100 * draws / other_draws)], seed)


@dataclass(frozen=True)
class _Part:
    """Something measured with seeds of its own: scores [seeds, sizes], draws [resamples, seeds, sizes]."""

    scores: Floats
    draws: Floats

    def with_mean(self) -> _Part:
        """Return the same with the mean over sizes as one more size at the end."""
        return _Part(
            np.concatenate([self.scores, self.scores.mean(axis=1, keepdims=True)], axis=1),
            np.concatenate([self.draws, self.draws.mean(axis=2, keepdims=True)], axis=2),
        )

    def pair_deviations(self) -> Floats:
        """Return how far the mean over seeds moves when the pairs are drawn anew: [resamples, sizes]."""
        means = self.draws.mean(axis=1)
        return np.asarray(means - means.mean(axis=0))

    def seed_variance(self) -> Floats:
        """Return the variance of the mean over seeds that is due to the seeds: [sizes].

        The seeds' scores also differ because they err on different pairs. Resampling the pairs shows how
        much that is; it is in `pair_deviations` already and taken away here, or it would count twice.
        """
        seeds = len(self.scores)
        if seeds == 1:
            return np.zeros(self.scores.shape[1])
        spread = self.scores.var(axis=0, ddof=1)
        shifts = self.draws - self.draws.mean(axis=1, keepdims=True)
        by_pairs = shifts.var(axis=0, ddof=1).sum(axis=0) / (seeds - 1)
        return np.asarray(np.maximum(spread - by_pairs, 0.0) / seeds)

    def seed_deviations(self, variance: Floats, random: np.random.Generator) -> Floats:
        """Return how far the mean moves when the seeds are drawn anew: [resamples, sizes].

        Deviations are scaled to the given variance: drawing from so few seeds would understate it by the
        factor (seeds - 1) / seeds, and hold once more what is due to the pairs.
        """
        seeds, resamples = len(self.scores), len(self.draws)
        if seeds == 1:
            return np.zeros((resamples, self.scores.shape[1]))
        drawn = random.integers(seeds, size=(resamples, seeds))
        shifts = (self.scores - self.scores.mean(axis=0))[drawn].mean(axis=1)
        now = self.scores.var(axis=0) / seeds
        scale = np.sqrt(np.divide(variance, now, out=np.zeros_like(now), where=now > 0))
        return np.asarray(shifts * scale)


def _intervals(parts: list[_Part], seed: int) -> Intervals:
    """Return the intervals of a sum of parts."""
    from scipy import stats

    random = np.random.default_rng(seed)
    parts = [part.with_mean() for part in parts]
    estimate = np.sum([part.scores.mean(axis=0) for part in parts], axis=0)
    pairs = np.sum([part.pair_deviations() for part in parts], axis=0)
    by_pairs = pairs.var(axis=0, ddof=1)
    by_seeds = np.array([_steadied(part.seed_variance(), by_pairs) for part in parts])
    drawn = [part.seed_deviations(own, random) for part, own in zip(parts, by_seeds, strict=True)]
    seeds = np.sum(drawn, axis=0)
    error = np.sqrt(by_pairs + by_seeds.sum(axis=0))
    freedom = _degrees_of_freedom(error**2, parts)
    alone = stats.t.ppf((1 + LEVEL) / 2, freedom) * error
    # The mean over sizes at the end is a question of its own, not one of the family.
    # What holds for all sizes at once is never narrower than what holds for one; few resamples may say so.
    one = float(stats.norm.ppf((1 + LEVEL) / 2))
    family = max(one, _family_quantile((pairs + seeds)[:, :-1], error[:-1]))
    # The bootstrap's quantile is that of a normal; the same tail of a t is wider.
    together = stats.t.isf(stats.norm.sf(family), freedom[:-1]) * error[:-1]
    middle, reach = estimate[:-1], float(alone[-1])
    return Intervals(
        middle,
        middle - alone[:-1],
        middle + alone[:-1],
        middle - together,
        middle + together,
        (float(estimate[-1]), float(estimate[-1]) - reach, float(estimate[-1]) + reach),
        tuple(len(part.scores) for part in parts),
    )


def _steadied(by_seeds: Floats, by_pairs: Floats) -> Floats:
    """Return the seeds' variance of each size, half its own and half what all sizes together say.

    A variance of three seeds is often far too small by chance, and one such size among 48 would be called
    better or worse. What the sizes share is the ratio of the seeds' variance to that of the pairs. The mean
    over sizes at the end keeps its own: pairs average out over sizes, seeds do not, so its ratio is another.
    """
    total = by_pairs[:-1].sum()
    ratio = by_seeds[:-1].sum() / total if total > 0 else 0.0
    steadied = (by_seeds + ratio * by_pairs) / 2
    steadied[-1] = by_seeds[-1]
    return np.asarray(steadied)


def _degrees_of_freedom(variance: Floats, parts: Sequence[_Part]) -> Floats:
    """Return Satterthwaite's degrees of freedom: many where pairs decide, seeds - 1 where seeds do.

    What is uncertain is the seeds' observed variance, before the pairs' share of it is taken away: a small
    difference of two large numbers is known less well than its own size says. A size has half of it, the
    mean over sizes at the end all of it; see `_steadied`.
    """
    uncertain = np.zeros_like(variance)
    for part in parts:
        seeds = len(part.scores)
        if seeds > 1:
            own = part.scores.var(axis=0, ddof=1) / seeds
            own[:-1] /= 2
            uncertain += own**2 / (seeds - 1)
    return np.divide(variance**2, uncertain, out=np.full_like(variance, 1e9), where=uncertain > 0)


def _family_quantile(deviations: Floats, error: Floats) -> float:
    """Return what the largest deviation of all sizes, in standard errors, stays below in 95% of resamples.

    A size that cannot deviate, such as the one that others are held against, has no part in it.
    """
    varies = error > 0
    if not varies.any():
        return 0.0
    largest = np.abs(deviations[:, varies] / error[varies]).max(axis=1)
    return float(np.quantile(largest, LEVEL))
