"""Tests over seeds alone, reported only where their number can reject anything at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.bootstrap import LEVEL
from matryoshka2d.evaluation.cosine import Floats


def seeds_can_reject(seeds: int, tests: int = 1, level: float = 1 - LEVEL) -> bool:
    """Return whether a test over so many seeds can reject anything after Holm's correction.

    The smallest p-value of a two-sided Wilcoxon test of n differences is 2 / 2^n. A t test has no such
    floor, but with fewer seeds its small p-values rest on nothing but an assumed normal distribution.

    Parameters
    ----------
    seeds
        Number of seeds that both methods have.
    tests
        How many tests are corrected for: the number of sizes, or 1 for the mean over sizes.
    level
        The level of the test.

    Examples
    --------
    >>> seeds_can_reject(3), seeds_can_reject(6), seeds_can_reject(6, tests=48)
    (False, True, False)
    """
    return tests * 2.0 ** (1 - seeds) <= level


def seed_tests(method: Floats, other: Floats) -> dict[str, Floats] | None:
    """Return p-values of paired tests over seeds, corrected by Holm, or None if none could reject.

    Parameters
    ----------
    method, other
        Float [seeds, sizes]: scores of the same seeds.

    Returns
    -------
    dict or None
        ``"t"`` and ``"wilcoxon"`` → float64 [sizes]; None with too few seeds: see `seeds_can_reject`.

    Examples
    --------
    >>> scores = np.arange(6.0)[:, None]
    >>> seed_tests(scores + 1 + 0.01 * scores, scores)["wilcoxon"].tolist()
    [0.03125]
    >>> seed_tests(scores[:3] + 1, scores[:3])
    """
    from scipy import stats

    seeds, sizes = method.shape
    if method.shape != other.shape:
        raise UserError(
            f"scores of shape {method.shape} and {other.shape}: expected the same seeds and sizes"
        )
    if not seeds_can_reject(seeds, sizes):
        return None
    differences = method - other
    tests: dict[str, Callable[[Floats], Any]] = {"t": _paired_t, "wilcoxon": stats.wilcoxon}
    return {
        name: holm(np.array([_p_value(test, differences[:, size]) for size in range(sizes)]))
        for name, test in tests.items()
    }


def _paired_t(differences: Floats) -> Any:
    from scipy import stats

    return stats.ttest_1samp(differences, 0.0)


def _p_value(test: Callable[[Floats], Any], differences: Floats) -> float:
    if not np.any(differences):
        return 1.0
    with np.errstate(all="ignore"):
        return float(test(differences).pvalue)


def holm(p_values: Floats) -> Floats:
    """Return p-values corrected for their number by Holm's step-down procedure.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(steps)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def seed_interval(method: Floats, other: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the mean lead over seeds of each size, and its 95% interval by a paired t test.

    It says what other seeds would give on the same pairs; for other pairs too, see
    `matryoshka2d.evaluation.compare`. With few seeds it rests on an assumed normal distribution.

    Parameters
    ----------
    method, other
        Float [seeds, sizes]: scores of the same seeds, two or more.

    Returns
    -------
    tuple
        Lead, low and high: float64 [sizes] each.

    Examples
    --------
    >>> scores = np.array([[1.0], [2.0], [3.0]])
    >>> [round(float(value[0]), 2) for value in seed_interval(scores, 0 * scores)]
    [2.0, -0.48, 4.48]
    """
    from scipy import stats

    if method.shape != other.shape or len(method) < 2:
        raise UserError(
            f"scores of shape {method.shape} and {other.shape}: expected the same two or more seeds of both"
        )
    lead = np.asarray(np.mean(method - other, axis=0))
    error = seed_spread(method - other) / math.sqrt(len(method))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(method) - 1)) * error
    return lead, lead - reach, lead + reach


def seed_spread(scores: Floats) -> Floats:
    """Return the standard deviation over seeds of each size: float64 [sizes]; nan with a single seed.

    Parameters
    ----------
    scores
        Float [seeds, sizes].
    """
    if len(scores) < 2:
        return np.full(scores.shape[1], math.nan)
    return np.asarray(scores.std(axis=0, ddof=1))
