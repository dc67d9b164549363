"""Starting a server, and ending it without losing a request that it accepted."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from matryoshka2d.errors import UserError
from matryoshka2d.serving.options import ServeOptions

if TYPE_CHECKING:
    from matryoshka2d.serving.catalog import Catalog
    from matryoshka2d.serving.searching import ServedIndex

_KEEP_ALIVE = 75
"""Seconds that a connection may idle: longer than proxies keep theirs, so that they end it, not we."""

_SWITCH = 0.0005
"""Seconds after which Python lets another thread run: no answer waits for a long one to be written."""

_LAST = 2
"""Seconds for what is still open when the time for a graceful end is over."""


def serve(
    models: Sequence[str], options: ServeOptions | None = None, *, note: Callable[[str], None] = print
) -> None:
    """Serve models until the process is told to stop; returns then.

    Parameters
    ----------
    models
        Folders, hub names or ``"default"``; or ``name=MODEL``, to choose what requests call it.
    options
        The choices of the server.
    note
        Called with a line when the server is ready.

    Raises
    ------
    UserError
        If the port is taken, a model cannot be served, or the index is not of one of them.
    """
    options = options or ServeOptions()
    with _bound(options) as listener:
        # Imported when the port is ours: it takes seconds.
        from matryoshka2d.serving.catalog import load_catalog

        store = None
        if options.index is not None:
            from matryoshka2d.search.stores import open_store

            # Before the models, which take longer to load: it may not be there.
            store = open_store(options.index)
        catalog = load_catalog(models, options)
        index = None
        if store is not None:
            from matryoshka2d.serving.searching import match_index

            index = match_index(store, options.index or "", catalog)
        sys.setswitchinterval(_SWITCH)
        # What is loaded stays: looking through it again and again would hold up requests.
        gc.collect()
        gc.freeze()
        started = _started(catalog, options, listener, index)
        Server(catalog, options, lambda: note(started), index).run([listener])


def _bound(options: ServeOptions) -> socket.socket:
    """Return a socket that has the port, before anything slow is done."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise UserError(
            f"cannot listen on {options.host} port {options.port}: {error.strerror or error}; "
            "choose another --port or --host"
        ) from error
    return listener


def _started(
    catalog: Catalog, options: ServeOptions, listener: socket.socket, index: ServedIndex | None
) -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    what = ", ".join(
        f"{one.name} ({one.engine.depth} layers, {one.engine.width} dims, {one.engine.name} "
        f"{one.engine.precision} on {one.engine.device})"
        for one in catalog.served.values()
    )
    if index is not None:
        what += f", and an index of {index.documents:,} documents,"
    return f"Serving {what} at http://{shown}:{port}{options.root_path}/v1"


class Server(uvicorn.Server):
    """A server that, once told to stop, answers what it accepted and nothing new, and then ends.

    Parameters
    ----------
    catalog
        The models.
    options
        The choices.
    started
        Called once requests are taken.
    index
        What ``/v1/search`` searches.
    """

    def __init__(
        self,
        catalog: Catalog,
        options: ServeOptions,
        started: Callable[[], None],
        index: ServedIndex | None = None,
    ) -> None:
        from matryoshka2d.serving.app import State, build_app

        self._state = State(catalog, options, index)
        self._grace = options.grace
        self._told: float | None = None
        self._tell_started = started
        super().__init__(
            uvicorn.Config(
                build_app(self._state),
                access_log=False,
                log_level=logging.WARNING,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=_LAST,
                server_header=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._tell_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler
        """Stop taking requests at the first signal; at the second, end at once."""
        if self._told is not None:
            self.should_exit = self.force_exit = True
        self._told = time.monotonic()
        self._state.draining = True

    async def on_tick(self, counter: int) -> bool:
        """End when what was accepted has its answer, or the time is over."""
        if self._told is not None:
            over = time.monotonic() - self._told > self._grace
            self.should_exit = self.should_exit or over or self._state.active == 0
        return await super().on_tick(counter)
