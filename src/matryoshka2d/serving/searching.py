"""The way of a query through an index: embedded beside all other texts, then searched for in a thread."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from matryoshka2d.errors import UserError
from matryoshka2d.search.filters import wanted_values
from matryoshka2d.search.index import Index
from matryoshka2d.search.store import Store
from matryoshka2d.serving.blocking import BlockingCalls
from matryoshka2d.serving.catalog import Catalog, Served
from matryoshka2d.serving.embedding import Embedded, Embedder, Gone, Inputs, within
from matryoshka2d.serving.metrics import Metrics
from matryoshka2d.serving.options import ServeOptions
from matryoshka2d.serving.problems import ClientGoneError, RequestError, busy, invalid
from matryoshka2d.serving.search_schema import SearchRequest
from matryoshka2d.size import Size

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_AT_ONCE = 2
"""Searches at once: they share the cores with the layers."""

_WAITING = 64
"""Searches that may wait."""

_AGAIN = 5.0
"""Seconds after which a store that failed may be asked again."""

_LAST = 2.0
"""Seconds that searches have when the server ends."""


@dataclass(frozen=True)
class ServedIndex:
    """An index that is served, and the model that made it.

    Parameters
    ----------
    index
        The index.
    served
        The model.
    depths
        After how many layers queries may meet its documents, ascending.
    documents
        How many documents it had when the server started.
    """

    index: Index
    served: Served
    depths: tuple[int, ...]
    documents: int

    def entry(self) -> dict[str, Any]:
        """Return what ``/v1/models`` says of it."""
        meta = self.index.meta
        return {
            "documents": self.documents,
            "size": str(meta.size),
            "query_layers": list(self.depths),
            "prefix": meta.prefix,
            "any_prefix": self.index.store.any_prefix,
            "oversample": meta.choice.oversample,
        }


def match_index(store: Store, uri: str, catalog: Catalog) -> ServedIndex:
    """Return an index with the one of the served models that made it.

    Raises
    ------
    UserError
        If none of them did, or the store cannot be asked.
    """
    documents = len(store)
    problem = ""
    for served in catalog.served.values():
        index = Index(store, served.engine)
        try:
            return ServedIndex(index, served, _depths(index, served), documents)
        except UserError as error:
            problem = str(error)
    if len(catalog.served) > 1:
        problem = f"none of the models {', '.join(catalog.served)} made it: serve its own, {store.meta.model}"
    raise UserError(f"--index {uri}: {problem}")


def _depths(index: Index, served: Served) -> tuple[int, ...]:
    """Return after how many layers queries may be searched for."""
    needed = {index.meta.size.layers, index.query_layers()}
    depths = []
    for layers in sorted({*served.cost, *needed}):
        try:
            if layers <= index.meta.size.layers:
                index.check_queries(layers)
                depths.append(layers)
        except UserError:
            if layers in needed:
                raise
    return tuple(depths)


@dataclass(frozen=True)
class Answer:
    """What a request gets, the size of its queries, and stage → milliseconds."""

    body: bytes
    size: Size
    cut: int
    milliseconds: dict[str, float]


class Searcher:
    """Searches the index of a server.

    Parameters
    ----------
    served
        The index.
    options
        The choices of the server.
    embedder
        What embeds queries.
    metrics
        Where times are noted.
    """

    def __init__(
        self, served: ServedIndex, options: ServeOptions, embedder: Embedder, metrics: Metrics
    ) -> None:
        self.served = served
        self._deadline = options.deadline
        self._embedder = embedder
        self._metrics = metrics
        self._calls = BlockingCalls("searches", _AT_ONCE, _WAITING)

    async def answer(self, request: SearchRequest, gone: Gone) -> Answer:
        """Return the answer to a request.

        Raises
        ------
        RequestError
            If it cannot be served: what is wrong with it, or that the store failed.
        ClientGoneError
            If nobody waits for the answer any more.
        """
        index = self.served.index
        size = self._size(request)
        inputs = Inputs(request.queries, "query", index.meta.query_prompt, request.truncate)
        async with within(self._deadline):
            found = await self._embedder.embed(inputs, self.served.served, size, gone)
            queued = time.perf_counter()

            def search() -> Answer:
                return self._search(request, size, found, time.perf_counter() - queued)

            try:
                answer = await _unless_gone(self._calls.call(search), gone)
            except (RequestError, ClientGoneError):
                raise
            except Exception as error:
                # The request was right: whatever goes wrong now lies with the store.
                _LOG.error("a search failed: %s", error, exc_info=not isinstance(error, UserError))
                raise busy(
                    "the index cannot be searched at the moment", "index_failed", _AGAIN, status=503
                ) from error
        for stage, taken in answer.milliseconds.items():
            self._metrics.search_seconds.labels(stage).observe(taken / 1000)
        return answer

    def _size(self, request: SearchRequest) -> Size:
        """Return the size of the queries, or raise a `RequestError` if the request does not fit the index."""
        index = self.served.index
        with _wrong("query_size"):
            layers = index.query_layers(request.query_size)
        if layers not in self.served.depths:
            known = ", ".join(f"{one}x{index.meta.size.dims}" for one in self.served.depths)
            raise invalid(
                f"queries of {layers} layers do not lie in the space of this index: expected {known}",
                "query_size",
                "size_not_offered",
            )
        with _wrong("prefix"):
            index.funnel(request.results, oversample=request.oversample, prefix=request.prefix)
        with _wrong("where"):
            wanted_values(request.where or {})
        return Size(layers, index.meta.size.dims)

    def _search(self, request: SearchRequest, size: Size, found: Embedded, waited: float) -> Answer:
        """Search, and write down what was found."""
        answers = self.served.index.search(
            found.vectors,
            request.results,
            oversample=request.oversample,
            prefix=request.prefix,
            query_size=size,
            exact=bool(request.exact),
            where=request.where,
        )
        embedding = {"queue": found.queue, "tokenize": found.tokenize, "embed": found.embed, "wait": waited}
        milliseconds = {stage: 1000 * taken for stage, taken in embedding.items()}
        milliseconds |= {
            stage: taken for stage, taken in answers[0].milliseconds.items() if stage not in embedding
        }
        body = {
            "object": "list",
            "data": [
                {"object": "results", "index": i, "results": [hit.to_dict() for hit in one.hits]}
                for i, one in enumerate(answers)
            ],
            "query_size": str(size),
            "approximate": answers[0].approximate,
            "milliseconds": {stage: round(taken, 3) for stage, taken in milliseconds.items()},
            "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        }
        return Answer(_json(body), size, found.cut, milliseconds)

    def close(self) -> None:
        """Let go of the store, unless a search still holds it."""
        if self._calls.close(_LAST):
            self.served.index.close()


@contextmanager
def _wrong(field: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise invalid(str(error), field, "invalid_value") from error


async def _unless_gone(work: Coroutine[Any, Any, T], gone: Gone) -> T:
    """Return what comes of work, or raise `ClientGoneError` once nobody waits for it."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        task.cancel()
        left.cancel()


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        # Documents may hold what only Python's own takes: half a surrogate pair, numbers over 64 bits.
        return json.dumps(value).encode()
