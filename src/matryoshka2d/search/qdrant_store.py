"""Qdrant: a point a document, with its whole vector and its prefix as two named vectors.

``qdrant:http://HOST:6333/NAME`` is a collection of a server, ``qdrant:FOLDER`` the same engine in this
process. A search is one request: the prefix is prefetched, the whole vector orders what it found.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from matryoshka2d.errors import UserError, needs
from matryoshka2d.search.documents import Document
from matryoshka2d.search.filters import field_texts
from matryoshka2d.search.meta import Meta, Vectors, cut
from matryoshka2d.search.qdrant_points import (
    HEAD,
    MATCHED,
    WHOLE,
    Ask,
    EdgePoints,
    Point,
    Points,
    ServerPoints,
)
from matryoshka2d.search.store import Found, Funnel, Ids, Store, Where, poured

_AT_ONCE = 256
_MOST_DIMS = 65_536


class QdrantStore(Store):
    """An index in a collection; see `Store` for the methods."""

    scheme: ClassVar[str] = "qdrant"
    any_prefix: ClassVar[bool] = False

    def __init__(self, points: Points, meta: Meta) -> None:
        self.points, self.meta = points, meta

    @classmethod
    def settled(cls, meta: Meta) -> Meta:
        if meta.size.dims > _MOST_DIMS:
            raise UserError(f"Qdrant keeps vectors of at most {_MOST_DIMS} dims, not {meta.size.dims}")
        return meta

    @classmethod
    def exists(cls, address: str) -> bool:
        return _points(address).record() is not None

    @classmethod
    def create(cls, address: str, meta: Meta) -> QdrantStore:
        points = _points(address)
        points.create(meta)
        points.write_record(meta.to_json())
        return cls(points, meta)

    @classmethod
    def open(cls, address: str) -> QdrantStore:
        points = _points(address)
        record = points.record()
        if record is None:
            raise UserError(f"there is no index at {address}: expected one that matryoshka2d index wrote")
        return cls(points, Meta.from_json(record))

    def close(self) -> None:
        self.points.close()

    def __len__(self) -> int:
        return self.points.count()

    def writing(self) -> AbstractContextManager[None]:
        return self.points.writing()

    def add(self, documents: Sequence[Document], vectors: Vectors) -> None:
        heads = cut(vectors, self.meta.prefix)
        for start in range(0, len(documents), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            self.points.upsert(
                [
                    Point(_key(one.id), {WHOLE: whole.tolist(), HEAD: head.tolist()}, _payload(one))
                    for one, whole, head in zip(documents[some], vectors[some], heads[some], strict=True)
                ]
            )

    def finish(self) -> None:
        self.points.finish()

    def delete(self, ids: Sequence[str]) -> int:
        there = list(self.digests(ids))
        if there:
            self.points.delete([_key(key) for key in there])
        return len(there)

    def digests(self, ids: Sequence[str]) -> dict[str, str]:
        return {one.payload["id"]: one.payload.get("digest", "") for one in self._get(ids, [])}

    def documents(self, ids: Sequence[str]) -> dict[str, Document]:
        return {one.payload["id"]: _document(one) for one in self._get(ids, [])}

    def vectors(self, ids: Sequence[str]) -> Vectors:
        found = {one.payload["id"]: one.vectors[WHOLE] for one in self._get(ids, [WHOLE])}
        return np.array([found[key] for key in ids], dtype=np.float32)

    def _get(self, ids: Sequence[str], vectors: list[str]) -> Iterator[Point]:
        for start in range(0, len(ids), _AT_ONCE):
            yield from self.points.get([_key(key) for key in ids[start : start + _AT_ONCE]], vectors)

    def everything(self, block: int = 4096) -> Iterator[tuple[list[Document], Vectors]]:
        after = None
        while True:
            found, after = self.points.scroll(after, block)
            if found:
                vectors = np.array([one.vectors[WHOLE] for one in found], dtype=np.float32)
                yield [_document(one) for one in found], vectors
            if after is None:
                return

    def candidates(self, queries: Vectors, funnel: Funnel) -> tuple[Ids, list[Vectors]]:
        found = [self.points.query(self._first(query, funnel)) for query in queries]
        return _ids(found), _scores(found)

    def search(self, queries: Vectors, funnel: Funnel) -> Found:
        """Find and rescore in one request; the first stage's cosines are computed from what comes back."""
        start = time.perf_counter()
        asks = (Ask(query.tolist(), WHOLE, funnel.k, first=self._first(query, funnel)) for query in queries)
        found = [self.points.query(ask) for ask in asks]
        milliseconds = 1e3 * (time.perf_counter() - start)
        first = [
            np.array([one.vectors[HEAD] for one in row], dtype=np.float32).reshape(-1, self.meta.prefix)
            @ cut(query[None], self.meta.prefix)[0]
            for query, row in zip(queries, found, strict=True)
        ]
        return Found(_ids(found), _scores(found), first, {"prefix and rescore": milliseconds})

    def exact(self, queries: Vectors, k: int, where: Where | None = None) -> tuple[Ids, list[Vectors]]:
        found = [
            self.points.query(Ask(query.tolist(), WHOLE, k, exact=True, where=where)) for query in queries
        ]
        return _ids(found), _scores(found)

    def _first(self, query: Vectors, funnel: Funnel) -> Ask:
        head = cut(query[None], funnel.prefix)[0].tolist()
        return Ask(
            head, HEAD, funnel.candidates, exact=not self.meta.graph, effort=funnel.effort, where=funnel.where
        )

    def recut(self, meta: Meta) -> None:
        sibling = self._beside(meta)
        sibling.points.write_record(meta.to_json())
        self.points.replace(sibling.points)
        self.meta = meta

    @contextlib.contextmanager
    def trial(self, prefix: int) -> Iterator[Store]:
        if prefix == self.meta.prefix:
            yield self
            return
        sibling = self._beside(replace(self.meta, prefix=prefix))
        try:
            yield sibling
        finally:
            sibling.points.remove()

    def _beside(self, meta: Meta) -> QdrantStore:
        """Return an index of another record with the same documents, next to this one."""
        sibling = QdrantStore(self.points.sibling(), meta)
        sibling.points.create(meta)
        poured(self, sibling)
        return sibling

    def write_meta(self, meta: Meta) -> None:
        self.points.write_record(meta.to_json())
        self.meta = meta

    def bytes(self) -> dict[str, int]:
        return self.points.bytes()

    def remove(self) -> None:
        self.points.remove()


def _points(address: str) -> Points:
    """Return the way to a collection: a server for an address of the web, else a folder."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return EdgePoints(Path(address))
    needs("qdrant", "qdrant_client")
    from qdrant_client import QdrantClient

    collection = parts.path.strip("/")
    if not collection or "/" in collection:
        raise UserError(f"'{address}' names no collection: expected http://HOST:6333/NAME")
    client = QdrantClient(
        url=urlunsplit((parts.scheme, parts.netloc, "", "", "")), timeout=60, check_compatibility=False
    )
    return ServerPoints(client, collection)


def _key(key: str) -> str:
    """Return the point of a document: Qdrant names points by numbers or UUIDs."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, key))


def _payload(one: Document) -> dict[str, object]:
    return {
        "id": one.id,
        "text": one.text,
        "fields": one.fields,
        "digest": one.digest,
        MATCHED: field_texts(one.fields),
    }


def _document(point: Point) -> Document:
    return Document(point.payload["id"], point.payload["text"], point.payload.get("fields") or {})


def _ids(found: Sequence[Sequence[Point]]) -> Ids:
    return [[one.payload["id"] for one in row] for row in found]


def _scores(found: Sequence[Sequence[Point]]) -> list[Vectors]:
    return [np.array([one.score for one in row], dtype=np.float32) for row in found]
