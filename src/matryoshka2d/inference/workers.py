"""Threads that run batches side by side, each on a core of its own.

One batch spread over all cores waits at the end of every operation for the slowest; one batch a core does
not. Small jobs that wait at the same time run as one batch, so that many callers with one text each cost
little more than one caller with many; where the runner can, texts of several depths too, each leaving at
its own.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator

import torch

from matryoshka2d.inference.engine import MixingRunner, Runner, Vectors
from matryoshka2d.inference.queueing import FairQueue, Job
from matryoshka2d.inference.tokens import Tokens, join

# Texts that are padded to each other's length should not differ by more.
_LENGTHS_APART = 2


# Seconds to wait, when Python ends, for a batch that is running, and for who waits for it.
_PATIENCE = 30.0
_LIVE: weakref.WeakSet[Workers] = weakref.WeakSet()
# Beside the workers: a closed one may be gone while its last thread is still freeing the model.
_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End the threads before Python does: one that it stops inside a library would abort the process."""
    for workers in list(_LIVE):
        workers.join()
    for thread in list(_THREADS):
        thread.join(_PATIENCE)


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
        self.watch: Callable[[int, int], object] = lambda _texts, _tokens: None
        """Called with the texts and the tokens of every batch, before it runs."""
        self._mixing = runner if isinstance(runner, MixingRunner) else None
        self._jobs = FairQueue(threads)
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
        _THREADS.update(self._threads)
        for thread in self._threads:
            thread.start()
        _LIVE.add(self)
        before = torch.get_num_threads()
        started.wait()
        # Each worker set its own number of cores, which torch also takes as the default of later threads.
        torch.set_num_threads(before)

    def submit(
        self,
        tokens: Tokens,
        layers: int,
        *,
        shared: bool = False,
        bulk: bool = False,
        caller: object = None,
    ) -> Job:
        """Queue a batch; its future is the promise of float32 [texts, width], cancelled after `close`."""
        job = Job(tokens, layers, shared, bulk, caller)
        with self._changed:
            if self._closed:
                job.future.cancel()
            else:
                self._jobs.put(job)
                self._changed.notify()
        return job

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
            for job in self._jobs.clear():
                job.future.cancel()
        for thread in self._threads:
            thread.join(_PATIENCE)
        with self._changed:
            self._changed.wait_for(lambda: not self._callers, _PATIENCE)

    def _work(self, started: threading.Barrier, cores: int) -> None:
        torch.set_num_threads(cores)
        started.wait()
        while jobs := self._next():
            live = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if live:
                self._run(live)
            with self._changed:
                self._jobs.done(jobs[0])
                if jobs[0].bulk:
                    # Another worker may have left a bulk job alone because of this one.
                    self._changed.notify()

    def _next(self) -> list[Job]:
        """Return the next job with the waiting ones that fit into its batch; none when it is time to end."""
        with self._changed:
            while (first := self._jobs.take()) is None:
                if self._closed and not len(self._jobs):
                    return []
                self._changed.wait(self._jobs.again_in())
            room = self.runner.budget - len(first.tokens.ids)
            beside = self._jobs.take_beside(first, room, lambda job: self._together(job, first))
        return [first, *beside]

    def _together(self, job: Job, other: Job) -> bool:
        """Whether two jobs may run in one batch: functions that go together, on lengths that do."""
        if not (job.shared and other.shared) or job.tokens.prompt_length != other.tokens.prompt_length:
            return False
        if job.layers != other.layers and self._mixing is None:
            return False
        if self.runner.waste is None:
            return True
        longest, shortest = (pick([pick(one.tokens.lengths) for one in (job, other)]) for pick in (max, min))
        return bool(longest <= _LENGTHS_APART * shortest)

    def _run(self, jobs: list[Job]) -> None:
        """Run jobs as one batch; if that fails, each alone, so that only those fail that must."""
        begun = time.perf_counter()
        # Texts that leave last first, then by length: texts of one length attend together.
        jobs = sorted(jobs, key=lambda job: (-job.layers, job.tokens.lengths[0]))
        for job in jobs:
            job.begun = begun
        waiting = list(jobs)
        try:
            for vectors in self._batch(jobs):
                job = waiting.pop()
                job.ended = time.perf_counter()
                job.future.set_result(vectors)
        except BaseException as error:  # the caller must hear of whatever went wrong
            if len(waiting) == 1:
                waiting[0].future.set_exception(error)
                return
            for job in waiting:
                self._run([job])

    def _batch(self, jobs: list[Job]) -> Iterator[Vectors]:
        """Yield the vectors of each job, the last one first."""
        tokens = join([job.tokens for job in jobs])
        self.watch(len(tokens), len(tokens.ids))
        depths = [job.layers for job in jobs for _ in range(len(job.tokens))]
        if self._mixing is not None and depths[0] != depths[-1]:
            found: Iterable[Vectors] = self._mixing.leaving(tokens, depths)
        else:
            found = [self.runner.run(tokens, depths[0])]
        last = len(jobs)
        for vectors in found:
            while len(vectors):
                last -= 1
                count = len(jobs[last].tokens)
                yield vectors[len(vectors) - count :]
                vectors = vectors[: len(vectors) - count]
