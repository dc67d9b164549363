"""The similarity that a model's vectors are compared by: its own, on vectors as a size gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from matryoshka2d.evaluation.cosine import ROUNDING, Floats, Indices, Vectors, block_cosines, pair_cosines
from matryoshka2d.evaluation.exits import PlainExits

_PAIRS_A_BLOCK = 8192
_CELLS_A_BLOCK = 2**22
_METRICS = {"euclidean": "euclidean", "manhattan": "cityblock"}
_WORDS = {
    "cosine": "cosine",
    "dot": "dot product",
    "euclidean": "Euclidean distance",
    "manhattan": "Manhattan distance",
}


@dataclass(frozen=True)
class Similarity:
    """How two vectors are compared; a greater value means more alike.

    Parameters
    ----------
    name : {"cosine", "dot", "euclidean", "manhattan"}
        As sentence-transformers names it. Distances are negative.
    unit
        Whether vectors are scaled to unit length after the cut, as every size of an elastic model is. A
        cosine does it by itself.

    Examples
    --------
    >>> vectors = np.array([[1.0, 0.0], [3.0, 4.0]])
    >>> float(Similarity("dot", unit=False).of_pairs(vectors, np.array([[0, 1]]), [2])[0, 0])
    3.0
    >>> float(Similarity("dot").of_pairs(vectors, np.array([[0, 1]]), [2])[0, 0])
    0.6
    """

    name: str = "cosine"
    unit: bool = True

    @property
    def is_cosine(self) -> bool:
        """Whether it equals the cosine."""
        return self.name == "cosine" or (self.name == "dot" and self.unit)

    def of_pairs(self, vectors: Vectors, pairs: Indices, dims: Sequence[int]) -> Floats:
        """Return the similarity of each pair of rows at each width, cut first: float64 [pairs, len(dims)].

        Parameters
        ----------
        vectors
            Float [texts, width].
        pairs
            Int [pairs, 2]: row numbers of `vectors`.
        dims
            Ascending widths.
        """
        if self.is_cosine:
            return pair_cosines(vectors, pairs, dims)
        found = np.empty((len(pairs), len(dims)))
        for position, d in enumerate(dims):
            cut = self._cut(vectors, d)
            if _constant(cut):
                found[:, position] = self._aligned(cut[:1], cut[:1])
                continue
            for start in range(0, len(pairs), _PAIRS_A_BLOCK):
                block = pairs[start : start + _PAIRS_A_BLOCK]
                found[start : start + len(block), position] = self._aligned(
                    cut[block[:, 0]], cut[block[:, 1]]
                )
        return found

    def of_blocks(
        self, queries: Vectors, documents: Vectors, dims: Sequence[int]
    ) -> Iterator[tuple[slice, int, Floats]]:
        """Yield every query against every document at each width: see `block_cosines`."""
        if self.is_cosine:
            yield from block_cosines(queries, documents, dims)
            return
        step = max(1, _CELLS_A_BLOCK // max(1, len(documents)))
        for position, d in enumerate(dims):
            targets = self._cut(documents, d)
            if _constant(targets):
                targets = np.repeat(targets[:1], len(targets), axis=0)
            for start in range(0, len(queries), step):
                rows = slice(start, min(start + step, len(queries)))
                # Equal documents may differ in the last bit; rounding keeps them tied.
                yield rows, position, np.round(self._all(self._cut(queries[rows], d), targets), 10)

    def _cut(self, vectors: Vectors, dims: int) -> Floats:
        """Return float64 [rows, dims]: the prefix, of unit length if sizes give it so."""
        prefix = np.asarray(vectors[:, :dims], dtype=np.float64)
        return unit_rows(prefix) if self.unit else prefix

    def _aligned(self, left: Floats, right: Floats) -> Floats:
        if self.name == "dot":
            return np.asarray(np.einsum("rd,rd->r", left, right))
        order = 1 if self.name == "manhattan" else 2
        return -np.asarray(np.linalg.norm(left - right, ord=order, axis=1))

    def _all(self, queries: Floats, documents: Floats) -> Floats:
        from scipy.spatial.distance import cdist

        if self.name == "dot":
            return np.asarray(queries @ documents.T)
        return -np.asarray(cdist(queries, documents, _METRICS[self.name]))


COSINE = Similarity()
"""The similarity of most models."""


def similarity_of(model: Any) -> Similarity:
    """Return how the vectors of a model are compared: by its own similarity, cosine if it names none.

    Every size of an elastic model gives vectors of unit length, so its dot product is the cosine; a plain
    SentenceTransformer is measured with the lengths that it gives.
    """
    name = str(getattr(model, "similarity_fn_name", None) or "cosine")
    return Similarity(name, unit=not isinstance(model, PlainExits))


def similarity_note(model: Any) -> str | None:
    """Return what a reader must know of the similarity; None where a model of unit vectors meets a cosine."""
    similarity = similarity_of(model)
    if similarity.name == "cosine":
        return None
    words = _WORDS[similarity.name]
    if not similarity.unit:
        return f"the model is measured by its own similarity, the {words}"
    last = "; the dot product is then the cosine, and lengths that the model gave are gone"
    return (
        f"the model is measured by its own similarity, the {words}, of vectors of unit length, as every size "
        f"gives them{last if similarity.name == 'dot' else ''}"
    )


def similarity_details(model: Any, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return ``similarity``, where it is no cosine, and ``notes`` of a grid, its own among them."""
    own = similarity_note(model)
    said = [*notes, *([own] if own else [])]
    return {
        **({"similarity": similarity_of(model).name} if own else {}),
        **({"notes": said} if said else {}),
    }


def _constant(vectors: Floats) -> bool:
    """Return whether all rows are the same up to rounding."""
    apart = np.abs(vectors - vectors[:1]).max(initial=0)
    return bool(apart <= ROUNDING * np.abs(vectors[:1]).max(initial=0))


def unit_rows(vectors: Floats) -> Floats:
    """Return rows of unit length; a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0))
