"""Vectors as an index keeps them: a model whose exits have been through int8 or binary and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from matryoshka2d.evaluation.cosine import Vectors
from matryoshka2d.evaluation.exits import Exits

_STEPS = 255


def kept_as(vectors: Vectors, precision: str) -> Vectors:
    """Return vectors as they are read back from an index of a precision.

    Parameters
    ----------
    vectors
        Float [texts, width].
    precision
        ``"float32"``: as they are. ``"int8"``: each coordinate is put on 256 even steps between its least
        and greatest value in these vectors. ``"binary"``: the sign of each coordinate, as 1 or -1, so that a
        cosine is 1 less twice the share of bits that differ.

    Examples
    --------
    >>> kept_as(np.array([[0.25, -0.5]], dtype=np.float32), "binary").tolist()
    [[1.0, -1.0]]
    """
    if precision == "binary":
        return np.where(vectors > 0, np.float32(1), np.float32(-1))
    if precision == "int8":
        low, high = vectors.min(axis=0), vectors.max(axis=0)
        step = np.where(high > low, (high - low) / _STEPS, 1).astype(np.float32)
        return np.asarray(np.rint((vectors - low) / step) * step + low, dtype=np.float32)
    return vectors


class IndexedExits:
    """A model seen through an index: both sides of every comparison are kept at its precision.

    Steps of int8 are laid over the full-width vectors. An index lays them after the cut; with 256 steps
    either way the cosines are the same to about a thousandth.

    Parameters
    ----------
    model
        The model.
    precision
        As in `kept_as`.
    """

    def __init__(self, model: Exits, precision: str) -> None:
        self.model = model
        self.precision = precision
        self.depth = model.depth
        self.width = model.width

    def exits(self, texts: Sequence[str], **options: Any) -> dict[int, Vectors]:
        """Return layer → float32 [len(texts), width]."""
        found = self.model.exits(texts, **options)
        return {layer: kept_as(vectors, self.precision) for layer, vectors in found.items()}
