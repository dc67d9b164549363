"""Three ways to keep d coordinates: the prefix that was trained, and two yardsticks beside it.

A trained prefix earns its name only where it beats a PCA cut of the same vectors, and a prefix that does
no better than random coordinates carries no order at all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.evaluation.cosine import Floats, Vectors

CUTS = ("prefix", "pca", "random")
"""The first d coordinates, the first d principal axes, or d coordinates at random."""


def check_cut(cut: str) -> str:
    """Return the name of a cut, or raise a `UserError` that lists the known ones."""
    if cut not in CUTS:
        raise UserError(
            f"cut '{cut}' is not known: expected one of {', '.join(CUTS)}.{did_you_mean(cut, CUTS)}"
        )
    return cut


def turn(vectors: Vectors, cut: str, *, fit: Vectors | None = None, seed: int = 0) -> Vectors:
    """Turn vectors so that their first d coordinates are the cut that was asked for.

    Every cut leaves the full width as it is: the cosines there are the same for all three.

    Parameters
    ----------
    vectors
        Float [texts, width], full-width vectors of one exit.
    cut
        ``"prefix"`` returns them unchanged. ``"pca"`` rotates them onto the principal axes. ``"random"``
        shuffles the coordinates, the same way for every exit.
    fit
        Float [texts, width] of the same exit, on which the PCA is fitted; `vectors` by default. No labels
        are used. Give vectors of other texts when the PCA shall not have seen the texts it is measured on.
    seed
        Chooses the random coordinates. Average over a few seeds when a single draw decides something.

    Returns
    -------
    numpy.ndarray
        Float [texts, width].

    Notes
    -----
    The axes are those of the centred vectors, but the mean is not taken away when they are applied: that
    is what a bias-free Dense layer holds, as in sentence-transformers' dimensionality_reduction example.

    Examples
    --------
    >>> vectors = np.array([[0.0, 3.0], [0.0, -3.0], [1.0, 0.0], [-1.0, 0.0]])
    >>> np.abs(turn(vectors, "pca")[:, 0]).tolist()
    [3.0, 3.0, 0.0, 0.0]
    """
    if check_cut(cut) == "random":
        return vectors[:, np.random.default_rng(seed).permutation(vectors.shape[1])]
    if cut == "pca":
        return np.asarray(vectors @ principal_axes(vectors if fit is None else fit).astype(vectors.dtype))
    return vectors


def principal_axes(vectors: Vectors) -> Floats:
    """Return the principal axes as columns, strongest first: float64 [width, width], orthonormal.

    Parameters
    ----------
    vectors
        Float [texts, width]; with fewer texts than dims the last axes are arbitrary.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    strongest_first: NDArray[np.float64] = axes[:, ::-1]
    return strongest_first
