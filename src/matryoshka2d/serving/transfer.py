"""Reading the body of a request, and writing that of an answer, from and to clients that may never end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from matryoshka2d.serving.problems import ClientGoneError, RequestError

_READ_SECONDS = 30.0
"""Seconds that a body may take to arrive."""

_WRITE_SECONDS = 30.0
"""Seconds that a part of an answer may take to leave."""

_PART = 256 * 1024
"""Bytes of an answer handed over at a time, so that a client that does not read keeps no more of them."""


async def read_body(request: Request, limit: int, take: Callable[[int], None]) -> bytes:
    """Return the body of a request.

    Parameters
    ----------
    request
        The request.
    limit
        Bytes that it may have.
    take
        Called with the bytes of each part, before it is kept; raises a `RequestError` if there is no room.

    Raises
    ------
    RequestError
        If the body is too large, or takes too long.
    ClientGoneError
        If it never ends.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    total = 0
    try:
        async with asyncio.timeout(_READ_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part = message.get("body", b"")
                total += len(part)
                if total > limit:
                    raise _too_large(limit)
                take(len(part))
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise RequestError(
            408,
            f"the body did not arrive within {_READ_SECONDS:g} s",
            code="body_timeout",
            headers={"Connection": "close"},
        ) from None


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413, f"the body is larger than {limit} bytes: send several requests", code="body_too_large"
    )


class PatientResponse(Response):
    """An answer that is handed over in parts, to a client that may read slowly but must go on reading."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = bytes(self.body)
        for start in range(0, max(len(body), 1), _PART):
            more = start + _PART < len(body)
            part = {"type": "http.response.body", "body": body[start : start + _PART], "more_body": more}
            async with asyncio.timeout(_WRITE_SECONDS):
                await send(part)
