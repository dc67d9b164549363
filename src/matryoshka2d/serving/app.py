"""The routes of a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from matryoshka2d.serving import openapi
from matryoshka2d.serving.admission import Admission
from matryoshka2d.serving.catalog import Catalog, Served
from matryoshka2d.serving.embedding import Embedder, Gone
from matryoshka2d.serving.gate import Gate
from matryoshka2d.serving.metrics import CONTENT_TYPE, Metrics
from matryoshka2d.serving.options import ServeOptions
from matryoshka2d.serving.page import page_response
from matryoshka2d.serving.problems import ClientGoneError, RequestError, busy
from matryoshka2d.serving.schema import read_request
from matryoshka2d.serving.search_schema import read_search
from matryoshka2d.serving.searching import Searcher, ServedIndex
from matryoshka2d.serving.transfer import PatientResponse, read_body
from matryoshka2d.size import Size

_GONE = 499
"""The status, never seen by anyone, of an answer to a client that went away."""


class _PlainRoute(APIRoute):
    """A route whose function takes the request and returns the response: nothing to solve or to serialize."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


class State:
    """What the routes share, and the server that ends them."""

    def __init__(self, catalog: Catalog, options: ServeOptions, index: ServedIndex | None = None) -> None:
        self.catalog = catalog
        self.options = options
        self.draining = False
        self.active = 0
        """Requests to embed or to search that were accepted and have no answer yet."""
        self.admission = Admission(options.max_queue_tokens, options.max_body, options.deadline)
        self.metrics = Metrics(
            lambda: self.admission.held,
            {name: max(one.engine.memory().values(), default=0) for name, one in catalog.served.items()},
        )
        self.embedder = Embedder(options, self.admission, self.metrics)
        self.searcher = Searcher(index, options, self.embedder, self.metrics) if index else None
        for one in catalog.served.values():
            one.engine.watch(self._note_batch)

    def _note_batch(self, texts: int, tokens: int) -> None:
        self.metrics.batch_texts.observe(texts)
        self.metrics.batch_tokens.observe(tokens)

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """Count a request until it has its answer; raises a `RequestError` once the server is stopping."""
        self.refuse_when_draining()
        self.active += 1
        try:
            yield
        except ClientGoneError:
            self.metrics.abandoned.inc()
            raise
        finally:
            self.active -= 1

    def close(self) -> None:
        """End what was begun for the routes."""
        self.embedder.close()
        if self.searcher is not None:
            self.searcher.close()

    def refuse_when_draining(self) -> None:
        """Raise a `RequestError` once the server was told to stop."""
        if self.draining:
            problem = busy("the server is stopping: ask another one", "draining", 1.0, status=503)
            problem.headers["Connection"] = "close"
            raise problem


def build_app(state: State) -> ASGIApp:
    """Return the application, everything in front of it included."""
    options = state.options

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        state.close()

    app = FastAPI(
        title="matryoshka2d",
        version=openapi.version(),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_exception_handler(RequestError, _answer_problem(state))
    app.add_exception_handler(HTTPException, _answer_problem(state))
    app.add_exception_handler(ClientGoneError, _answer_nobody)
    _add_routes(app, state)
    index = None if state.searcher is None else state.searcher.served
    document = orjson.dumps(openapi.document(app, state.catalog, options, index))

    @app.get("/openapi.json", include_in_schema=False)
    async def describe(_: Request) -> Response:
        return Response(document, media_type="application/json")

    routes = [route.path for route in app.routes if hasattr(route, "path")]
    gated: ASGIApp = Gate(app, routes, options.keys, state.metrics, options.root_path)
    if options.cors:
        own = ["x-request-id", "x-matryoshka-size", "x-matryoshka-truncated"]
        gated = CORSMiddleware(
            gated,
            allow_origins=options.cors,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[*own, "server-timing", "retry-after"],
        )
    return gated


def _answer_problem(state: State) -> Any:
    async def answer(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = RequestError(error.status_code, str(error.detail), headers=error.headers)
        assert isinstance(error, RequestError)
        state.metrics.rejected.labels(error.reason).inc()
        return error.response()

    return answer


async def _answer_nobody(_: Request, __: Exception) -> Response:
    return Response(status_code=_GONE)


def _add_routes(app: FastAPI, state: State) -> None:
    app.router.route_class = _PlainRoute

    @app.post("/v1/embeddings", **openapi.EMBEDDINGS)
    async def embeddings(request: Request) -> Response:
        """Embed texts at a size."""
        with state.accepted():
            return await _embed(request, state)

    @app.post("/v1/search", include_in_schema=state.searcher is not None, **openapi.SEARCH)
    async def search(request: Request) -> Response:
        """Search the index: first by a prefix, then by whole vectors."""
        with state.accepted():
            return await _search(request, state)

    @app.get("/v1/models", **openapi.MODELS)
    async def models(_: Request) -> Response:
        """List every model, and every size offered by its alias."""
        names = [(one, [None, *one.sizes]) for one in state.catalog.served.values()]
        return _json(
            {"object": "list", "data": [_entry(state, one, size) for one, sizes in names for size in sizes]}
        )

    @app.get("/v1/models/{model:path}", **openapi.MODEL)
    async def model(request: Request) -> Response:
        """Describe one model, or one size of it."""
        name = request.path_params["model"]
        served, size = state.catalog.find(name)
        return _json(_entry(state, served, None if name == served.name else size))

    @app.get("/health", **openapi.HEALTH)
    async def health(_: Request) -> Response:
        """Say that the process is alive."""
        return _json({"status": "alive"})

    @app.get("/ready", **openapi.READY)
    async def ready(_: Request) -> Response:
        """Say whether requests are taken: 503 once the server was told to stop."""
        state.refuse_when_draining()
        return _json({"status": "ready"})

    @app.get("/metrics", **openapi.METRICS)
    async def metrics(_: Request) -> Response:
        """Return the figures for Prometheus."""
        return Response(state.metrics.page(), media_type=CONTENT_TYPE)

    if state.options.page:
        shown = page_response()

        @app.get("/", include_in_schema=False)
        async def page(_: Request) -> Response:
            return shown


def _entry(state: State, served: Served, size: Size | None) -> dict[str, Any]:
    """Return what is said of a model, or of one size of it; the index belongs to the model."""
    entry = served.entry(size)
    if size is None and state.searcher is not None and state.searcher.served.served is served:
        entry["index"] = state.searcher.served.entry()
    return entry


async def _embed(request: Request, state: State) -> Response:
    with state.admission.body() as take:
        wanted = read_request(await read_body(request, state.options.max_body, take), state.options)
        served, size = state.catalog.find(wanted.model, wanted.layers, wanted.dimensions)
        body, found = await state.embedder.answer(wanted, served, size, _gone(request))
    milliseconds = {name: 1000 * getattr(found, name) for name in ("queue", "tokenize", "embed")}
    return _answer(body, size, milliseconds, found.cut)


async def _search(request: Request, state: State) -> Response:
    if state.searcher is None:
        raise RequestError(
            404,
            "this server has no index to search: start it with matryoshka2d serve MODEL --index URI",
            code="no_index",
        )
    with state.admission.body() as take:
        wanted = read_search(await read_body(request, state.options.max_body, take))
        found = await state.searcher.answer(wanted, _gone(request))
    return _answer(found.body, found.size, found.milliseconds, found.cut)


def _gone(request: Request) -> Gone:
    """Return what returns when the client of a request is no longer there."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            await asyncio.sleep(0)

    return gone


def _answer(body: bytes, size: Size, milliseconds: Mapping[str, float], cut: int) -> Response:
    headers = {
        "x-matryoshka-size": str(size),
        "server-timing": ", ".join(
            f"{stage.replace(' ', '-')};dur={taken:.3f}" for stage, taken in milliseconds.items()
        ),
    }
    if cut:
        headers["x-matryoshka-truncated"] = str(cut)
    return PatientResponse(body, headers=headers, media_type="application/json")


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
