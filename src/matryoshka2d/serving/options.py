"""What a user may choose about a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from matryoshka2d.errors import UserError


@dataclass(frozen=True)
class ServeOptions:
    """The choices of a server; every one has a default that suits a machine of one's own.

    Parameters
    ----------
    host, port
        Where to listen. ``0.0.0.0`` is every network of the machine: set keys then. Port 0 takes a free one.
    index
        The index that ``/v1/search`` searches, as ``"faiss:my-index"``; a served model must have made it.
    sizes
        The sizes offered, as ``"1-6x64,128,384"``. Default: those that each model shows. The full width of
        every offered depth is always offered too.
    size
        The size of a request that names none. Default: the full size.
    any_size
        Offer every size up to the depth and width of the model.
    engine, precision, device
        As in `matryoshka2d.inference.open_engine`.
    keys
        If there are any, a request must carry one, as ``Authorization: Bearer KEY``.
    max_inputs
        Texts a request.
    max_request_tokens
        Tokens a request.
    max_body
        Bytes of a request.
    max_queue_tokens
        Tokens that may wait or run at once; a request beyond them is answered with 429.
    deadline
        Seconds after which a request that still waits is answered with 503.
    on_too_long
        Whether texts over the model's limit are ``"cut"``, which the answer says, or ``"refuse"``d.
    token_ids
        Whether ``"accept"`` lists of token ids as texts, or ``"refuse"`` them: clients that send them use
        another model's vocabulary as a rule, and the vectors would be of no use.
    grace
        Seconds that accepted requests have to finish once the server is told to stop.
    root_path
        The path under which a proxy shows the server, as ``/embeddings``.
    cors
        Origins whose pages may call the server from a browser.
    page
        Whether the page to try sizes on is shown at ``/``.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    index: str | None = None
    sizes: str | None = None
    size: str | None = None
    any_size: bool = False
    engine: str = "auto"
    precision: str = "auto"
    device: str | None = None
    keys: tuple[str, ...] = ()
    max_inputs: int = 2048
    max_request_tokens: int = 300_000
    max_body: int = 32_000_000
    max_queue_tokens: int = 400_000
    deadline: float = 60.0
    on_too_long: Literal["cut", "refuse"] = "cut"
    token_ids: Literal["accept", "refuse"] = "refuse"
    grace: float = 30.0
    root_path: str = ""
    cors: tuple[str, ...] = ()
    page: bool = True

    def __post_init__(self) -> None:
        for name, known in (("on_too_long", ("cut", "refuse")), ("token_ids", ("refuse", "accept"))):
            value = getattr(self, name)
            if value not in known:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} is '{value}': expected {' or '.join(known)}")
        for name in ("max_inputs", "max_request_tokens", "max_body", "max_queue_tokens", "deadline", "grace"):
            if getattr(self, name) <= 0:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} is {getattr(self, name)}: expected a number above 0")
        if not 0 <= self.port < 65536:
            raise UserError(f"--port is {self.port}: expected 0 to 65535")
        if 0.75 * self.max_queue_tokens < self.max_request_tokens:
            raise UserError(
                f"--max-queue-tokens is {self.max_queue_tokens} and --max-request-tokens "
                f"{self.max_request_tokens}: three quarters of the queue must hold the largest request"
            )
        if self.root_path and not self.root_path.startswith("/"):
            raise UserError(f"--root-path is '{self.root_path}': expected a path such as /embeddings")
