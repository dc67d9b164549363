"""Threads that run batches side by side, each on a core of its own.

One batch spread over all cores waits at the end of every operation for the slowest; one batch a core does
not. Small jobs that wait at the same time and ask for the same depth run as one batch, so that many callers
with one text each cost little more than one caller with many.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from matryoshka2d.inference.engine import Runner, Vectors
from matryoshka2d.inference.tokens import Tokens, join

# Texts that are padded to each other's length should not differ by more.
_LENGTHS_APART = 2


# Seconds to wait, when Python ends, for a batch that is running, and for who waits for it.
_PATIENCE = 30.0
_LIVE: weakref.WeakSet[Workers] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End the threads before Python does: one that it stops inside a library would abort the process."""
    for workers in list(_LIVE):
        workers.join()


@dataclass
class Job:
    """Some tokens to run through so many layers; `future` receives float32 [texts, width].

    Only a `shared` job may run in one batch with others. The batches of a long call are not shared, so
    that the same call gives the same bits whoever else is calling.
    """

    tokens: Tokens
    layers: int
    shared: bool
    future: Future[Vectors] = field(default_factory=Future)

    def joins(self, other: Job, runner: Runner) -> bool:
        """Whether two jobs compute the same function, on lengths that go together."""
        if not (self.shared and other.shared):
            return False
        if (self.layers, self.tokens.prompt_length) != (other.layers, other.tokens.prompt_length):
            return False
        if runner.waste is None:
            return True
        longest, shortest = (pick([pick(job.tokens.lengths) for job in (self, other)]) for pick in (max, min))
        return bool(longest <= _LENGTHS_APART * shortest)


class Workers:
    """A queue of jobs and the threads that take from it.

    Parameters
    ----------
    runner
        What runs a batch.
    threads
        How many batches run side by side.
    cores
        Cores that torch may use for one batch; one each where there are several threads.
    """

    def __init__(self, runner: Runner, threads: int, cores: int) -> None:
        self.runner = runner
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._callers = 0
        started = threading.Barrier(threads + 1)
        self._threads = [
            threading.Thread(
                target=self._work, args=(started, cores), name=f"matryoshka2d-{runner.name}-{i}", daemon=True
            )
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        _LIVE.add(self)
        before = torch.get_num_threads()
        started.wait()
        # Each worker set its own number of cores, which torch also takes as the default of later threads.
        torch.set_num_threads(before)

    def submit(self, tokens: Tokens, layers: int, *, shared: bool = False) -> Future[Vectors]:
        """Queue a batch; return the promise of float32 [texts, width], which is cancelled after `close`."""
        job = Job(tokens, layers, shared)
        with self._changed:
            if self._closed:
                job.future.cancel()
            else:
                self._jobs.append(job)
                self._changed.notify()
        return job.future

    def close(self) -> None:
        """Let the threads end when the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def caller(self) -> Iterator[None]:
        """Mark a thread as one that makes and submits jobs, and may be inside a library while it does."""
        with self._changed:
            self._callers += 1
        try:
            yield
        finally:
            with self._changed:
                self._callers -= 1
                self._changed.notify_all()

    def join(self) -> None:
        """Close, drop what is not begun, and wait for the threads to end and for callers to hear of it."""
        # Closed first: a caller that is still at work would fill the queue again.
        self.close()
        with self._changed:
            while self._jobs:
                self._jobs.popleft().future.cancel()
        for thread in self._threads:
            thread.join(_PATIENCE)
        with self._changed:
            self._changed.wait_for(lambda: not self._callers, _PATIENCE)

    def _work(self, started: threading.Barrier, cores: int) -> None:
        torch.set_num_threads(cores)
        started.wait()
        while jobs := self._next():
            self._run(jobs)

    def _next(self) -> list[Job]:
        """Return the job at the head of the queue, with the waiting ones that fit into its batch."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return []
                self._changed.wait()
            jobs = [self._jobs.popleft()]
            room = self.runner.budget - len(jobs[0].tokens.ids)
            for _ in range(len(self._jobs)):
                job = self._jobs.popleft()
                if len(job.tokens.ids) <= room and job.joins(jobs[0], self.runner):
                    jobs.append(job)
                    room -= len(job.tokens.ids)
                else:
                    self._jobs.append(job)
        return [job for job in jobs if job.future.set_running_or_notify_cancel()] or self._next()

    def _run(self, jobs: list[Job]) -> None:
        try:
            vectors = self.runner.run(join([job.tokens for job in jobs]), jobs[0].layers)
        except BaseException as error:  # the caller must hear of whatever went wrong
            for job in jobs:
                job.future.set_exception(error)
            return
        start = 0
        for job in jobs:
            job.future.set_result(vectors[start : start + len(job.tokens)])
            start += len(job.tokens)
