"""Doing tasks one after another here, or several at a time in processes of their own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from matryoshka2d_reproduction.tasks import Task
from matryoshka2d_reproduction.units import Unit

Fits = Callable[[Unit], bool]
"""Whether what a unit asks for may start, asked when its turn comes."""

Submit = Callable[[Sequence[tuple[Unit, Task]], Fits], Iterator[Any]]
"""Does tasks, and yields what each gives as soon as it is there."""


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[Submit]:
    """Yield a function that does tasks: here if `jobs` is 1, else in as many processes, one thread each."""
    if jobs == 1:
        yield _in_turn
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes that are started from here on
    pool = concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        yield lambda tasks, fits: _side_by_side(pool, jobs, tasks, fits)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_turn(tasks: Sequence[tuple[Unit, Task]], fits: Fits) -> Iterator[Any]:
    for unit, task in tasks:
        if fits(unit):
            yield task()


def _side_by_side(
    pool: concurrent.futures.Executor, jobs: int, tasks: Sequence[tuple[Unit, Task]], fits: Fits
) -> Iterator[Any]:
    waiting = list(tasks)
    running: set[concurrent.futures.Future[Any]] = set()
    while waiting or running:
        while waiting and len(running) < jobs:
            unit, task = waiting.pop(0)
            if fits(unit):
                running.add(pool.submit(task))
        done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            yield future.result()


def _start_worker() -> None:
    import torch
    import transformers

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone: a killed command leaves nothing behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
