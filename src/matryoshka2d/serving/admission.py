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
"""Tokens a second that are supposed until enough was measured."""

_ENOUGH = 1.0
"""Seconds of work in the window from which a speed can be read."""

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
        # When a bucket was begun, its tokens, and the seconds in which there was work.
        self._finished: deque[tuple[float, int, float]] = deque()
        self._busy_since = self._noted = now()

    @property
    def held(self) -> int:
        """Tokens that wait or run."""
        return sum(self._held.values())

    @property
    def speed(self) -> float:
        """Tokens a second of work, as measured lately; the time between requests does not count."""
        self._forget()
        busy = sum(seconds for _, _, seconds in self._finished)
        if busy < _ENOUGH:
            return _UNKNOWN_SPEED
        return max(1.0, sum(tokens for _, tokens, _ in self._finished) / busy)

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
        if not self.held:
            self._busy_since = self._now()
        self._held[bulk] += count
        try:
            yield
        finally:
            self._held[bulk] -= count

    def finished(self, tokens: int) -> None:
        """Note that so many tokens were embedded."""
        self._forget()
        now = self._now()
        busy = now - max(self._busy_since, self._noted)
        self._noted = now
        if self._finished and now - self._finished[-1][0] < _BUCKET:
            begun, before, seconds = self._finished.pop()
            self._finished.append((begun, before + tokens, seconds + busy))
        else:
            self._finished.append((now, tokens, busy))

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
