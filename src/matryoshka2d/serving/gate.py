"""What every request passes: its number, its key, its figures, and one shape for whatever goes wrong."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Collection

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from matryoshka2d.serving.metrics import Metrics
from matryoshka2d.serving.problems import RequestError, failed

_LOG = logging.getLogger(__name__)

OPEN = frozenset({"/", "/health", "/ready"})
"""Routes that need no key; the page holds nothing, and asks for the key itself."""

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Gate:
    """ASGI middleware around the whole application.

    Parameters
    ----------
    app
        The application.
    routes
        The paths that there are; all others are one in the metrics.
    keys
        The keys that open it; with none, everybody may come in.
    metrics
        Where requests are counted.
    root_path
        What a proxy may put before every path.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Collection[str],
        keys: Collection[str],
        metrics: Metrics,
        root_path: str = "",
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._routes = frozenset(routes)
        self._keys = [_digest(key) for key in keys]
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        scope = {**scope, "root_path": self._root_path}
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            problem = self._refusal(request)
            if problem is None:
                await self._app(scope, receive, noting)
            else:
                await problem.response()(scope, receive, noting)
        except Exception:
            _LOG.exception("request %s failed", request_id)
            if status:
                raise
            await failed(f"the server failed at request {request_id}").response()(scope, receive, noting)
        finally:
            self._count(request, status, time.perf_counter() - begun)

    def _refusal(self, request: Request) -> RequestError | None:
        path = self._path(request)
        if not self._keys or path in OPEN or self._opens(request.headers.get("authorization", "")):
            return None
        self._metrics.rejected.labels("wrong_key").inc()
        return RequestError(
            401,
            "the key is missing or wrong: expected the header Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _path(self, request: Request) -> str:
        return str(request.scope["path"]).removeprefix(self._root_path)

    def _opens(self, header: str) -> bool:
        scheme, _, key = header.partition(" ")
        digest = _digest(key.strip())
        # Every key is compared, so that the time says nothing.
        found = [hmac.compare_digest(digest, one) for one in self._keys]
        return scheme.lower() == "bearer" and any(found)

    def _count(self, request: Request, status: int, seconds: float) -> None:
        path = self._path(request)
        known = path if path in self._routes else "other"
        route = "/v1/models" if path.startswith("/v1/models/") else known
        # A client that went away has got no status.
        self._metrics.requests.labels(route, str(status or 499)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
