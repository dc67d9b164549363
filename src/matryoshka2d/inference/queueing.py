"""Jobs that wait for a worker: short ones first, long ones never starved, one caller never behind another.

There are two classes. *Prompt* jobs are those that somebody waits for; *bulk* jobs are the parts of long
calls. While prompt jobs come in, bulk jobs leave one worker free, so that a prompt job need not wait for the
end of a long batch; and where both wait for the same worker, bulk jobs get a quarter of the work.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from matryoshka2d.inference.engine import Vectors
from matryoshka2d.inference.tokens import Tokens

_QUIET = 5.0
"""Seconds without a prompt job after which bulk jobs may take every worker."""

_PROMPT_SHARE = 3
"""Work of prompt jobs for one part of bulk work, where both wait: bulk keeps a quarter."""

_FEWEST_TOKENS = 4
"""With less room than this, a batch is full."""


@dataclass(eq=False)
class Job:
    """Some tokens to run through so many layers; `future` receives float32 [texts, width].

    Only a `shared` job may run in one batch with others. The batches of a long call are not shared, so
    that the same call gives the same bits whoever else is calling.
    """

    tokens: Tokens
    layers: int
    shared: bool = False
    bulk: bool = False
    caller: object = None
    """Jobs of one caller run in their order; callers of a class take turns."""
    future: Future[Vectors] = field(default_factory=Future)
    queued: float = field(default_factory=time.perf_counter)
    begun: float = 0.0
    ended: float = 0.0
    """When its batch began and ended, on the clock of `time.perf_counter`."""

    @property
    def work(self) -> int:
        """Tokens times layers."""
        return len(self.tokens.ids) * self.layers


class FairQueue:
    """The waiting jobs of some workers. Not safe to share: the workers hold a lock around it.

    Parameters
    ----------
    workers
        How many workers take from it.
    now
        The clock, in seconds.

    Examples
    --------
    >>> import numpy as np
    >>> queue = FairQueue(workers=2)
    >>> tokens = Tokens(np.arange(3), np.array([3]))
    >>> queue.put(Job(tokens, 1, bulk=True)); queue.put(Job(tokens, 1))
    >>> queue.take().bulk, queue.take().bulk, queue.take()
    (False, True, None)
    """

    def __init__(self, workers: int, now: Callable[[], float] = time.perf_counter) -> None:
        self._workers = workers
        self._now = now
        self.prompt_tokens = 0
        """Tokens of the prompt jobs that wait."""
        # Class (bulk or not) → caller → its jobs.
        self._waiting: dict[bool, OrderedDict[object, deque[Job]]] = {
            False: OrderedDict(),
            True: OrderedDict(),
        }
        # How much work each class has had, as its share weighs it.
        self._had = {False: 0.0, True: 0.0}
        self._bulk_running = 0
        self._last_prompt = -_QUIET

    def __len__(self) -> int:
        return sum(len(jobs) for callers in self._waiting.values() for jobs in callers.values())

    def put(self, job: Job) -> None:
        """Add a job at the end of its caller's."""
        callers = self._waiting[job.bulk]
        if not callers:
            # Who was away has saved nothing up.
            self._had[job.bulk] = max(self._had.values())
        if not job.bulk:
            self._last_prompt = self._now()
            self.prompt_tokens += len(job.tokens.ids)
        callers.setdefault(job if job.caller is None else job.caller, deque()).append(job)

    def take(self) -> Job | None:
        """Return the job that is next, or None where none may run now."""
        choices = [bulk for bulk, callers in self._waiting.items() if callers and self._may_run(bulk)]
        if not choices:
            return None
        bulk = min(choices, key=self._had.__getitem__)
        job = self._first(bulk)
        self._note(job)
        return job

    def take_beside(self, first: Job, room: int, fits: Callable[[Job], bool]) -> list[Job]:
        """Return waiting jobs of the same class that may run in one batch with a job, up to `room` tokens."""
        callers = self._waiting[first.bulk]
        found = []
        for caller in list(callers):
            if room < _FEWEST_TOKENS:
                break
            job = callers[caller][0]
            if len(job.tokens.ids) <= room and fits(job):
                room -= len(job.tokens.ids)
                self._remove_first(callers, caller)
                self._had[job.bulk] += self._weighed(job)
                found.append(job)
        return found

    def done(self, job: Job) -> None:
        """Note that the batch of a job that was taken has ended."""
        self._bulk_running -= job.bulk

    def again_in(self) -> float | None:
        """Return the seconds after which a waiting job may run that may not now, or None."""
        if not self._waiting[True] or self._may_run(True):
            return None
        return max(0.0, self._last_prompt + _QUIET - self._now()) + 1e-3

    def clear(self) -> list[Job]:
        """Remove and return all jobs."""
        jobs = [job for callers in self._waiting.values() for own in callers.values() for job in own]
        for callers in self._waiting.values():
            callers.clear()
        self.prompt_tokens = 0
        return jobs

    def _may_run(self, bulk: bool) -> bool:
        quiet = self._now() - self._last_prompt >= _QUIET
        return not bulk or quiet or self._bulk_running < max(1, self._workers - 1)

    def _first(self, bulk: bool) -> Job:
        callers = self._waiting[bulk]
        caller = next(iter(callers))
        job = self._remove_first(callers, caller)
        if caller in callers:
            callers.move_to_end(caller)
        return job

    def _remove_first(self, callers: OrderedDict[object, deque[Job]], caller: object) -> Job:
        job = callers[caller].popleft()
        if not callers[caller]:
            del callers[caller]
        if not job.bulk:
            self.prompt_tokens -= len(job.tokens.ids)
        return job

    def _note(self, job: Job) -> None:
        self._had[job.bulk] += self._weighed(job)
        self._bulk_running += job.bulk

    def _weighed(self, job: Job) -> float:
        return job.work if job.bulk else job.work / _PROMPT_SHARE
