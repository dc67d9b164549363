"""Calls that may block, in threads: a few at a time, a bounded number waiting, none that holds up the end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from matryoshka2d.serving.problems import busy

T = TypeVar("T")

_NEWEST = 0.2
"""How much the last call counts in the time that one is expected to take."""


class BlockingCalls:
    """Runs calls in threads.

    Parameters
    ----------
    what
        What is called, for the message to those that are told to come back.
    at_once
        Calls that run at once.
    waiting
        Calls that may wait.

    Examples
    --------
    >>> asyncio.run(BlockingCalls("sums", 1, 1).call(lambda: 2 + 2))
    4
    """

    def __init__(self, what: str, at_once: int, waiting: int) -> None:
        self._what, self._at_once, self._most = what, at_once, waiting
        self._slots = asyncio.Semaphore(at_once)
        self._waiting = 0
        self._typical = 0.0
        self._running: set[threading.Thread] = set()

    async def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns; raises a `RequestError` with 429 if too many calls wait."""
        if self._waiting >= self._most:
            raise busy(
                f"the server has all the {self._what} that it can take: {self._waiting} wait",
                "overloaded",
                self._typical * self._waiting / self._at_once,
            )
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            ended = asyncio.wrap_future(self._start(function))
        except BaseException:
            self._slots.release()
            raise
        # The place is free when the thread has ended, also where nobody waits for it any more.
        ended.add_done_callback(lambda _: self._slots.release())
        return await asyncio.shield(ended)

    def _start(self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        # Python waits for other threads when it ends; a call may block for as long as a network does.
        thread = threading.Thread(target=self._run, args=(function, future), daemon=True)
        self._running.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._running.discard(thread)
            raise
        return future

    def _run(self, function: Callable[[], T], future: Future[Any]) -> None:
        begun = time.perf_counter()
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            self._typical += _NEWEST * (time.perf_counter() - begun - self._typical)
            self._running.discard(threading.current_thread())

    def close(self, seconds: float) -> bool:
        """Wait for what runs, and return whether all of it has ended."""
        end = time.monotonic() + seconds
        running = list(self._running)
        for thread in running:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in running)
