"""What a store of vectors can do: the protocol behind which Faiss, PostgreSQL and Qdrant stand.

A fourth store implements the abstract methods; the rest is derived from them.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from matryoshka2d.errors import UserError
from matryoshka2d.search.documents import Document
from matryoshka2d.search.meta import Meta, Vectors, cut

Where = Mapping[str, Any]
"""Field → the value that it must have, or a list of which it must have one; all of them must hold."""

Ids = list[list[str]]


@dataclass(frozen=True)
class Found:
    """The nearest documents of some queries, best first.

    Parameters
    ----------
    ids
        A list of ids for each query; shorter than asked where fewer documents are there.
    scores
        Cosines of whole vectors, as `ids`.
    first_scores
        What the first stage found them with: the cosine of the prefixes, or with codes of a bit the share of
        equal bits less that of others; as `ids`. Empty where there was no first stage.
    milliseconds
        Stage → how long it took for all queries together.
    """

    ids: Ids
    scores: list[Vectors]
    first_scores: list[Vectors]
    milliseconds: dict[str, float]


@dataclass(frozen=True)
class Funnel:
    """How one search goes.

    Parameters
    ----------
    k
        How many results.
    candidates
        How many documents the first stage hands to the second, at least k.
    effort
        How far a graph is searched; never less than `candidates`.
    prefix
        How many leading dims the first stage compares; see `Store.any_prefix`.
    where
        Which documents count.
    """

    k: int
    candidates: int
    effort: int
    prefix: int
    where: Where | None = None


class Store(ABC):
    """Vectors, documents and a record, in one place that outlives the process.

    Ids are unique: adding a document whose id is there replaces it. All vectors are float32 of unit length.
    """

    scheme: ClassVar[str]
    """What its addresses begin with."""
    any_prefix: ClassVar[bool] = True
    """Whether it compares any other prefix than that of the index, though without a graph."""
    meta: Meta
    """The record of the index."""

    @classmethod
    def settled(cls, meta: Meta) -> Meta:
        """Return the record as this store can keep it, or raise a `UserError` that says what it cannot."""
        return meta

    @classmethod
    @abstractmethod
    def exists(cls, address: str) -> bool:
        """Return whether an index, finished or not, is at an address (without the scheme)."""

    @classmethod
    @abstractmethod
    def create(cls, address: str, meta: Meta) -> Store:
        """Make an empty index at a free address."""

    @classmethod
    @abstractmethod
    def open(cls, address: str) -> Store:
        """Open the index at an address."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of documents."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[None]:
        """Be the only writer until the block ends; a second one is refused with a `UserError`."""

    @abstractmethod
    def add(self, documents: Sequence[Document], vectors: Vectors) -> None:
        """Take in a block, all of it or nothing; it need not be found before `finish`."""

    @abstractmethod
    def finish(self) -> None:
        """Make everything that was added searchable."""

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> int:
        """Remove documents, and return how many of them were there."""

    @abstractmethod
    def digests(self, ids: Sequence[str]) -> dict[str, str]:
        """Return id → digest of those documents that are there."""

    @abstractmethod
    def documents(self, ids: Sequence[str]) -> dict[str, Document]:
        """Return id → document of those that are there."""

    @abstractmethod
    def candidates(self, queries: Vectors, funnel: Funnel) -> tuple[Ids, list[Vectors]]:
        """Return, for every query, the ids that the first stage finds and their scores, best first."""

    @abstractmethod
    def exact(self, queries: Vectors, k: int, where: Where | None = None) -> tuple[Ids, list[Vectors]]:
        """Return ids and cosines of the nearest by whole vectors, every one of them compared."""

    @abstractmethod
    def vectors(self, ids: Sequence[str]) -> Vectors:
        """Return float32 [ids, dims] of documents that are there."""

    @abstractmethod
    def everything(self, block: int = 4096) -> Iterator[tuple[list[Document], Vectors]]:
        """Yield all documents with their vectors, in an order that stays."""

    @abstractmethod
    def write_meta(self, meta: Meta) -> None:
        """Replace the record."""

    @abstractmethod
    def bytes(self) -> dict[str, int]:
        """Return part → bytes on disk; ``"first stage"`` is among them."""

    @abstractmethod
    def remove(self) -> None:
        """Delete the whole index."""

    # --- what follows from these; a store with a quicker way has its own ------------------------------

    def rescore(self, queries: Vectors, candidates: Ids, k: int) -> tuple[Ids, list[Vectors], list[Any]]:
        """Return the k best of each query's candidates by whole vectors: ids, cosines, places among them."""
        ids, scores, places = [], [], []
        for query, row in zip(queries, candidates, strict=True):
            cosines = self.vectors(row) @ query if row else np.empty(0, dtype=np.float32)
            order = np.argsort(-cosines, kind="stable")[:k]
            ids.append([row[place] for place in order])
            scores.append(cosines[order])
            places.append(order)
        return ids, scores, places

    def search(self, queries: Vectors, funnel: Funnel) -> Found:
        """Find by the prefix, rescore by whole vectors."""
        start = time.perf_counter()
        candidates, first = self.candidates(queries, funnel)
        middle = time.perf_counter()
        ids, scores, places = self.rescore(queries, candidates, funnel.k)
        end = time.perf_counter()
        kept = [row[order] for row, order in zip(first, places, strict=True)]
        return Found(ids, scores, kept, {"prefix": 1e3 * (middle - start), "rescore": 1e3 * (end - middle)})

    @contextlib.contextmanager
    def trial(self, prefix: int) -> Iterator[Store]:
        """Yield an index like this one with another prefix, to be measured and thrown away."""
        if prefix != self.meta.prefix:
            raise UserError(
                f"this store has no prefix of {prefix} dims to try: recut to it first, or try "
                f"{self.meta.prefix}"
            )
        yield self

    def recut(self, meta: Meta) -> None:  # noqa: ARG002 - for the stores that can
        """Become the index that the record describes, from the vectors that are there."""
        raise UserError(f"{self.scheme} indexes are recut beside: name another address with --to")

    def close(self) -> None:  # noqa: B027 - not every store has something to close
        """Let go of files and connections."""


def poured(source: Store, target: Store, block: int = 4096) -> None:
    """Put every document of one store into another, vectors cut to its dims; go on where a kill stopped."""
    dims = target.meta.size.dims
    for documents, vectors in source.everything(block):
        known = target.digests([document.id for document in documents])
        rows = [row for row, document in enumerate(documents) if known.get(document.id) != document.digest]
        if rows:
            target.add([documents[row] for row in rows], cut(vectors[rows], dims))
    target.finish()


def with_choice(meta: Meta, **changes: Any) -> Meta:
    """Return a record with another choice."""
    return replace(meta, choice=replace(meta.choice, **changes))
