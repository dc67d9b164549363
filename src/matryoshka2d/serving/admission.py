"""How much work may wait: a queue that is bounded in tokens, and how soon there will be room again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from matryoshka2d.serving.problems import busy

BULK_SHARE = 0.75
"""The part of the queue that long requests may fill; the rest is kept for short ones."""

_WINDOW = 5.0
"""Seconds over which the speed is measured."""

_BUCKET = 0.25
"""Seconds whose tokens are kept as one number."""

_UNKNOWN_SPEED = 10_000.0
"""Tokens a second that are supposed until something was measured."""

_BODIES = 8
"""Largest requests whose bytes may be held at once."""


class Admission:
    """Counts the tokens that wait or run, and the bytes of bodies that are being read.

    Parameters
    ----------
    max_tokens
        Tokens that may wait or run at once.
    max_body
        Bytes of the largest body.
    deadline
        Seconds after which a request would be given up anyway.
    now
        The clock, in seconds.

    Examples
    --------
    >>> admission = Admission(max_tokens=100, max_body=10, deadline=60)
    >>> with admission.tokens(60, bulk=True):
    ...     admission.held
    60
    """

    def __init__(
        self, max_tokens: int, max_body: int, deadline: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_tokens = max_tokens
        self._max_bytes = _BODIES * max_body
        self._deadline = deadline
        self._now = now
        self._held = {False: 0, True: 0}
        self._bytes = 0
        # When a bucket was begun, and its tokens.
        self._finished: deque[tuple[float, int]] = deque()

    @property
    def held(self) -> int:
        """Tokens that wait or run."""
        return sum(self._held.values())

    @property
    def speed(self) -> float:
        """Tokens a second, as measured lately."""
        self._forget()
        if not self._finished:
            return _UNKNOWN_SPEED
        spent = max(0.1, self._now() - self._finished[0][0])
        return max(1.0, sum(tokens for _, tokens in self._finished) / spent)

    def check(self, tokens: int, *, bulk: bool) -> None:
        """Raise a `RequestError` with 429 unless so many more tokens may wait."""
        limit = self._max_tokens * (BULK_SHARE if bulk else 1.0)
        excess = self.held + tokens - limit
        # Short requests go before long ones, which take at most a quarter of the work meanwhile.
        ahead = self.held if bulk else self._held[False] / BULK_SHARE
        late = ahead / self.speed - self._deadline
        if excess > 0 or late > 0:
            raise busy(
                f"the server has all the work that it can take: {self.held} tokens wait",
                "overloaded",
                max(excess / self.speed, late),
            )

    @contextmanager
    def tokens(self, count: int, *, bulk: bool) -> Iterator[None]:
        """Hold tokens while they wait and run; raises a `RequestError` if there is no room for them."""
        self.check(count, bulk=bulk)
        self._held[bulk] += count
        try:
            yield
        finally:
            self._held[bulk] -= count

    def finished(self, tokens: int) -> None:
        """Note that so many tokens were embedded."""
        self._forget()
        now = self._now()
        if self._finished and now - self._finished[-1][0] < _BUCKET:
            begun, before = self._finished.pop()
            self._finished.append((begun, before + tokens))
        else:
            self._finished.append((now, tokens))

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """Hold the bytes of a body: what is yielded is called with the bytes of each part."""
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if self._bytes + count > self._max_bytes:
                raise busy("the server holds all the requests that it can", "overloaded", 1.0)
            self._bytes += count
            mine += count

        try:
            yield take
        finally:
            self._bytes -= mine

    def _forget(self) -> None:
        while self._finished and self._finished[0][0] < self._now() - _WINDOW:
            self._finished.popleft()
