"""Pieces of work side by side, each on a core of its own.

An operation that is spread over all cores ends when the slowest core does. Beside other work one of them is
always late, so that every operation waits; pieces that have a core each wait for one another once, at the
end.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield what a function gives for each item, in their order; as many at once as torch uses cores.

    Settings of the calling thread, such as torch's grad mode and autocast, are not those of the function.

    Parameters
    ----------
    function
        What may run in several threads at once. It may not call `side_by_side` itself.
    items
        Read in the calling thread, a few ahead of what is computed.

    Examples
    --------
    >>> list(side_by_side(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    cores = core_count()
    if cores == 1:
        yield from map(function, items)
        return
    threads, waiting = _threads(cores), deque[Future[Result]]()
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # After an error too: what the others still use must not be changed under them.
        wait([one for one in waiting if not one.cancel()])


def core_count() -> int:
    """Return how many cores torch uses in the calling thread."""
    import torch

    return torch.get_num_threads()


def take_cores(count: int, usual: int) -> None:
    """Let torch use so many cores for what the calling thread runs; nothing where torch is not loaded.

    Parameters
    ----------
    count
        Cores of this thread.
    usual
        Cores of the process, which threads to come take; torch forgets that number with every change.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return
    # Asked first, for a thread's first use of torch takes the number of the process, whatever was set before.
    if torch.get_num_threads() != max(1, count):
        torch.set_num_threads(max(1, count))
        # That set the number of the process too: another thread puts it back.
        other = threading.Thread(target=torch.set_num_threads, args=(usual,))
        # Where Python is ending, no thread can be started, and none comes that could care.
        with contextlib.suppress(RuntimeError):
            other.start()
            other.join()


@lru_cache(maxsize=2)
def _threads(cores: int) -> ThreadPoolExecutor:
    """Return so many threads, which are kept from call to call."""
    return ThreadPoolExecutor(cores, "matryoshka2d-core", initializer=take_cores, initargs=(1, cores))


if hasattr(os, "register_at_fork"):
    # A forked process does not have them.
    os.register_at_fork(after_in_child=_threads.cache_clear)
