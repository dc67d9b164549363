"""Correlation of many columns with one gold score; the ranks of the gold are computed once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.evaluation.cosine import Floats

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
