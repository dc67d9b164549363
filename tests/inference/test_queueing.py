"""Who waits for a worker: short jobs go first, bulk is never starved, callers take turns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.inference.queueing import FairQueue, Job
from matryoshka2d.inference.tokens import Tokens


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def job(tokens: int = 10, *, bulk: bool = False, caller: object = None, layers: int = 1) -> Job:
    return Job(Tokens(np.zeros(tokens, dtype=np.int64), np.array([tokens])), layers, True, bulk, caller)


def test_bulk_leaves_one_worker_to_others_for_a_while() -> None:
    clock = Clock()
    queue = FairQueue(workers=2, now=clock)
    queue.put(job())
    for _ in range(4):
        queue.put(job(bulk=True, caller="long"))
    taken = [queue.take() for _ in range(3)]
    assert [one.bulk if one else None for one in taken] == [False, True, None]
    # Until no short job has come for some seconds.
    wait = queue.again_in()
    assert wait is not None and 4 < wait < 6
    clock.now += wait
    again = queue.take()
    assert again is not None and again.bulk


def test_bulk_may_take_every_worker_where_nobody_else_comes() -> None:
    queue = FairQueue(workers=3)
    for _ in range(3):
        queue.put(job(bulk=True))
    assert all(queue.take() for _ in range(3))
    assert queue.again_in() is None


def test_the_only_worker_runs_bulk_too() -> None:
    queue = FairQueue(workers=1)
    queue.put(job())
    queue.put(job(bulk=True))
    assert [queue.take().bulk, queue.take().bulk] == [False, True]  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [5, 40, 300])
def test_bulk_keeps_a_quarter_of_the_work(size: int) -> None:
    queue = FairQueue(workers=1)
    done = {False: 0, True: 0}
    for _ in range(2):
        queue.put(job(size))
        queue.put(job(100, bulk=True))
    for _ in range(2000):
        one = queue.take()
        assert one is not None
        done[one.bulk] += one.work
        queue.done(one)
        # Somebody of either class always waits.
        queue.put(job(100, bulk=True) if one.bulk else job(size))
    assert done[True] / sum(done.values()) == pytest.approx(0.25, abs=0.02)


def test_who_was_away_has_saved_nothing_up() -> None:
    queue = FairQueue(workers=1)
    for _ in range(50):
        queue.put(job(100))
        queue.take()
    order = []
    for _ in range(8):
        queue.put(job(100))
        queue.put(job(100, bulk=True))
    for _ in range(8):
        order.append(queue.take().bulk)  # type: ignore[union-attr]
    assert sum(order) <= 3, "bulk work may not catch up with what ran while there was none"


def test_callers_take_turns() -> None:
    queue = FairQueue(workers=4)
    for _ in range(3):
        queue.put(job(bulk=True, caller="first"))
    queue.put(job(bulk=True, caller="second"))
    order = [queue.take().caller for _ in range(4)]  # type: ignore[union-attr]
    assert order == ["first", "second", "first", "first"]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    room=st.integers(0, 100),
    odd=st.booleans(),
)
def test_what_runs_together_fits_and_nothing_is_lost(sizes: list[int], room: int, odd: bool) -> None:
    queue = FairQueue(workers=1)
    jobs = [job(size) for size in sizes]
    for one in jobs:
        queue.put(one)
    seen = []
    while (first := queue.take()) is not None:
        beside = queue.take_beside(first, room, lambda one: not odd or one.work % 2 == 1)
        assert sum(len(one.tokens.ids) for one in beside) <= room
        assert not odd or all(one.work % 2 for one in beside)
        seen += [first, *beside]
        queue.done(first)
    assert sorted(map(id, seen)) == sorted(map(id, jobs))


def test_clearing_gives_back_what_waited() -> None:
    queue = FairQueue(workers=1)
    jobs = [job(), job(bulk=True)]
    for one in jobs:
        queue.put(one)
    assert set(map(id, queue.clear())) == set(map(id, jobs))
    assert len(queue) == 0 and queue.take() is None
