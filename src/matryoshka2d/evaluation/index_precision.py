"""Vectors as an index keeps them: through the same quantizer as codes that are written, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.encoder.quantization import Quantizer
from matryoshka2d.evaluation.cosine import Vectors
from matryoshka2d.evaluation.similarity import unit_rows


@dataclass(frozen=True)
class Keeper:
    """How an index of one size keeps vectors: cut, scaled to unit length, in codes of its precision.

    Parameters
    ----------
    dims
        The width of the size.
    quantizer
        What writes the codes; None where the index keeps float32.
    unit
        Whether vectors are scaled to unit length after the cut: see `Similarity`.

    Examples
    --------
    >>> corpus = np.array([[0.6, -0.8, 9.0], [-0.6, 0.8, 9.0]], dtype=np.float32)
    >>> keeper = Keeper.fit(corpus, 2, "binary")
    >>> keeper.kept(corpus).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """

    dims: int
    quantizer: Quantizer | None = None
    unit: bool = True

    @classmethod
    def fit(cls, corpus: Vectors, dims: int, precision: str, *, unit: bool = True) -> Keeper:
        """Learn the ranges of a byte's steps from the vectors that the index holds.

        Parameters
        ----------
        corpus
            Float [texts, width]: the documents, or some thousand of them; vectors beyond their ranges are
            clipped.
        dims
            The width of the size.
        precision
            ``"float32"``, ``"int8"`` or ``"binary"``.
        unit
            As in `Keeper`.
        """
        if precision == "float32":
            return cls(dims, unit=unit)
        cut = cls(dims, unit=unit).cut(corpus)
        # The only vector of an index is its own range.
        return cls(dims, Quantizer.fit(cut if len(cut) > 1 else np.repeat(cut, 2, axis=0), precision), unit)

    def cut(self, vectors: Vectors) -> NDArray[np.float32]:
        """Return vectors of the size: float32 [rows, dims]."""
        prefix = np.asarray(vectors[:, : self.dims])
        return np.asarray(unit_rows(prefix.astype(np.float64)) if self.unit else prefix, dtype=np.float32)

    def kept(self, vectors: Vectors) -> Vectors:
        """Return vectors as they are read back from the index: float32 [rows, dims]."""
        cut = self.cut(vectors)
        return cut if self.quantizer is None else self.quantizer.decode(self.quantizer.encode(cut))

    def asked(self, vectors: Vectors) -> Vectors:
        """Return queries as they meet what is kept: bits as bits, by Hamming distance, else float32."""
        bits = self.quantizer is not None and self.quantizer.bits
        return self.kept(vectors) if bits else self.cut(vectors)


def kept_widths(
    vectors: Vectors, dims: Sequence[int], precision: str, *, unit: bool = True
) -> Iterator[tuple[Vectors, list[int]]]:
    """Yield (vectors as an index keeps them, the widths to read from them); their own ranges are those of "
    "codes.

    Parameters
    ----------
    vectors
        Float [texts, width]: one exit.
    dims
        Ascending widths; in float32 all are read from the vectors as they are.
    precision, unit
        As in `Keeper.fit`.
    """
    if precision == "float32":
        yield vectors, list(dims)
        return
    for d in dims:
        yield Keeper.fit(vectors, d, precision, unit=unit).kept(vectors), [d]
