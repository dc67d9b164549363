"""What a request is told that cannot be served: always ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

import orjson
from starlette.responses import Response

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class ClientGoneError(Exception):
    """Nobody waits for the answer any more: the client closed the connection."""


class RequestError(Exception):
    """A request that cannot be served, with the answer that it gets.

    Parameters
    ----------
    status
        The HTTP status.
    message
        One line: what was wrong, what was expected.
    param
        The field of the request that was wrong.
    code
        A word for programs, as ``"size_not_offered"``.
    headers
        Headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = " ".join(message.split())
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def reason(self) -> str:
        """Return the word that stands for it in the metrics."""
        return self.code or HTTPStatus(self.status).name.lower()

    def response(self) -> Response:
        """Return the answer."""
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        return Response(
            orjson.dumps({"error": error}), self.status, self.headers, media_type="application/json"
        )


def invalid(message: str, param: str | None = None, code: str | None = None) -> RequestError:
    """Return the problem of a request that is wrong in itself."""
    return RequestError(400, message, param=param, code=code)


def busy(message: str, code: str, seconds: float, status: int = 429) -> RequestError:
    """Return the problem of a request that may be sent again after some seconds."""
    wait = max(0.05, seconds)
    # Whole seconds for those who read no fractions.
    headers = {"Retry-After": str(max(1, math.ceil(wait))), "retry-after-ms": str(math.ceil(1000 * wait))}
    return RequestError(status, message, code=code, headers=headers)


def failed(message: str, param: str | None = None, code: str | None = None) -> RequestError:
    """Return the problem of a request that fails again however often it is sent."""
    return RequestError(500, message, param=param, code=code, headers={"x-should-retry": "false"})
