"""Threads that run batches side by side, each on a core of its own.

One batch spread over all cores waits at the end of every operation for the slowest; one batch a core does
not. Small jobs that wait at the same time run as one batch, so that many callers with one text each cost
little more than one caller with many. A batch that runs alone is spread over the cores after all.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from matryoshka2d.encoder.cores import take_cores
from matryoshka2d.inference.engine import Runner, Vectors
from matryoshka2d.inference.queueing import FairQueue, Job
from matryoshka2d.inference.tokens import Tokens, join

# Texts that are padded to each other's length should not differ by more.
_LENGTHS_APART = 2

# Tokens that a core must have of a batch: with fewer, waiting for each other costs more than it brings.
_TOKENS_A_CORE = 4

# A batch of fewer tokens costs nearly as much as one of so many: where another batch is running, it waits so
# many seconds for company.
_COMPANY = 64
_WAIT = 0.004

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
        Cores that torch may use for a batch that runs alone; batches side by side get one each.
    """

    def __init__(self, runner: Runner, threads: int, cores: int) -> None:
        self.runner = runner
        self.watch: Callable[[int, int], object] = lambda _texts, _tokens: None
        """Called with the texts and the tokens of every batch, before it runs."""
        self._cores = cores
        torch = sys.modules.get("torch")
        self._usual = torch.get_num_threads() if torch is not None else 1
        """Cores that torch uses elsewhere in the process."""
        self._running = 0
        self._running_tokens = 0
        """Tokens of the batches of prompt jobs that run."""
        self._jobs = FairQueue(threads)
        self._changed = threading.Condition()
        self._closed = False
        self._callers = 0
        started = threading.Barrier(threads + 1)
        self._threads = [
            threading.Thread(
                target=self._work, args=(started,), name=f"matryoshka2d-{runner.name}-{i}", daemon=True
            )
            for i in range(threads)
        ]
        _THREADS.update(self._threads)
        for thread in self._threads:
            thread.start()
        _LIVE.add(self)
        started.wait()

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

    def _work(self, started: threading.Barrier) -> None:
        started.wait()
        while jobs := self._next():
            live = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            results = self._results(live) if live else []
            with self._changed:
                self._running -= 1
                self._running_tokens -= 0 if jobs[0].bulk else _tokens_of(jobs)
                self._jobs.done(jobs[0])
                if not self._running:
                    # Nobody waits for company of a batch that has ended.
                    self._changed.notify_all()
                elif jobs[0].bulk:
                    # Another worker may have left a bulk job alone because of this one.
                    self._changed.notify()
            # Told when the worker is free: a caller's next job must not find it busy.
            for job, result in results:
                if isinstance(result, BaseException):
                    job.future.set_exception(result)
                else:
                    job.future.set_result(result)

    def _next(self) -> list[Job]:
        """Return the next job with the waiting ones that fit into its batch; none when it is time to end."""
        with self._changed:
            while (first := self._jobs.take()) is None:
                if self._closed and not len(self._jobs):
                    return []
                self._changed.wait(self._jobs.again_in())
            jobs = self._with_company(first)
            self._running += 1
            self._running_tokens += 0 if first.bulk else _tokens_of(jobs)
            # The batches of a long call are not spread: others follow them.
            alone = first.shared and self._running == 1 and not len(self._jobs)
        take_cores(min(self._cores, _tokens_of(jobs) // _TOKENS_A_CORE) if alone else 1, self._usual)
        return jobs

    def _with_company(self, first: Job) -> list[Job]:
        """Return a job and those that run in one batch with it; where others run, wait a little for some."""
        jobs, over = [first], time.perf_counter() + _WAIT
        while True:
            jobs += self._jobs.take_beside(
                first, self._share(jobs) - _tokens_of(jobs), lambda job: self._together(job, first)
            )
            left = over - time.perf_counter()
            if not (self._running and first.shared and _tokens_of(jobs) < _COMPANY and left > 0):
                break
            self._changed.wait(left)
        if len(self._jobs):
            # What came meanwhile and does not fit is another worker's.
            self._changed.notify()
        return jobs

    def _share(self, jobs: Sequence[Job]) -> int:
        """Return the most tokens of a batch: prompt jobs leave as many for every other worker."""
        if jobs[0].bulk:
            return self.runner.budget
        present = _tokens_of(jobs) + self._jobs.prompt_tokens + self._running_tokens
        return min(self.runner.budget, max(_COMPANY, present // len(self._threads)))

    def _together(self, job: Job, other: Job) -> bool:
        """Whether two jobs may run in one batch: functions that go together, on lengths that do."""
        if not (job.shared and other.shared) or job.tokens.prompt_length != other.tokens.prompt_length:
            return False
        if job.layers != other.layers:
            return False
        if self.runner.waste is None:
            return True
        longest, shortest = (pick([pick(one.tokens.lengths) for one in (job, other)]) for pick in (max, min))
        return bool(longest <= _LENGTHS_APART * shortest)

    def _results(self, jobs: Sequence[Job]) -> list[tuple[Job, Vectors | BaseException]]:
        """Run jobs as one batch; if that fails, each alone, so that only those fail that must."""
        begun = time.perf_counter()
        # By length: texts of one length attend together.
        jobs = sorted(jobs, key=lambda job: job.tokens.lengths[0])
        try:
            tokens = join([job.tokens for job in jobs])
            self.watch(len(tokens), len(tokens.ids))
            vectors = self.runner.run(tokens, jobs[0].layers)
        except BaseException as error:  # the caller must hear of whatever went wrong
            if len(jobs) > 1:
                return [result for job in jobs for result in self._results([job])]
            results: list[Vectors | BaseException] = [error]
        else:
            results = [*np.split(vectors, np.cumsum([len(job.tokens) for job in jobs])[:-1])]
        ended = time.perf_counter()
        for job in jobs:
            job.begun, job.ended = begun, ended
        return list(zip(jobs, results, strict=True))


def _tokens_of(jobs: Sequence[Job]) -> int:
    return sum(len(job.tokens.ids) for job in jobs)
