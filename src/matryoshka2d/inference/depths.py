"""Depths that are made ready when they are first asked for, once, with the memory that each took."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Depths(Generic[T]):
    """Layers → whatever runs them.

    Parameters
    ----------
    make
        What makes a depth ready; slow, so it is called once a depth.

    Examples
    --------
    >>> depths = Depths(lambda layers: f"{layers} layers")
    >>> depths[3], list(depths.memory())
    ('3 layers', [3])
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._ready: dict[int, T] = {}
        self._bytes: dict[int, int] = {}
        self._lock = threading.Lock()

    def __getitem__(self, layers: int) -> T:
        if layers not in self._ready:
            with self._lock:
                if layers not in self._ready:
                    before = resident_bytes()
                    made = self._make(layers)
                    self._bytes[layers] = max(0, resident_bytes() - before)
                    self._ready[layers] = made
        return self._ready[layers]

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes by which the process grew when that depth was made ready."""
        return dict(self._bytes)


def resident_bytes() -> int:
    """Return how much memory this process holds."""
    import psutil

    return int(psutil.Process().memory_info().rss)
