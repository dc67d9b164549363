"""Threads that run batches: they end when Python does, even in the middle of a batch."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from matryoshka2d.inference.tokens import Tokens
from matryoshka2d.inference.workers import Workers

ENDS = """
import sys, threading, time
from matryoshka2d.inference import open_engine

engine = open_engine(sys.argv[1], "torch", "fp32", device="cpu")
engine.embed(["a cat"])
if sys.argv[2] == "busy":
    texts = [f"a cat sat on the mat {i}" for i in range(3000)]
    threading.Thread(target=engine.embed, args=(texts,), daemon=True).start()
    time.sleep(0.05)
print("done", flush=True)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_python_ends_well(model: str, state: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", ENDS, model, state],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


FREES = """
import time
from matryoshka2d.inference.workers import Workers

class Runner:
    name, precision, device, budget, waste = "slow", "fp32", "cpu", 8, None

    def __del__(self):
        time.sleep(1.0)
        print("freed", flush=True)

Workers(Runner(), threads=1, cores=1).close()
time.sleep(0.5)
"""


def test_python_waits_for_a_thread_that_is_still_freeing_its_model() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FREES], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "freed\n"), done.stderr


class SlowRunner:
    """Takes a moment for every batch and counts them."""

    name, precision, device, budget, waste = "slow", "fp32", "cpu", 8, None

    def __init__(self) -> None:
        self.batches = 0

    def run(self, tokens: Tokens, layers: int) -> np.ndarray:
        self.batches += 1
        time.sleep(0.05)
        return np.zeros((len(tokens), 4), dtype=np.float32)

    def memory(self) -> dict[int, int]:
        return {}


def test_a_caller_that_goes_on_does_not_keep_the_threads_from_ending() -> None:
    runner = SlowRunner()
    workers = Workers(runner, threads=2, cores=1)
    tokens = Tokens(np.arange(4), np.array([4]))
    futures = []
    ended = threading.Event()

    def call() -> None:
        while not ended.is_set():
            futures.append(workers.submit(tokens, 1).future)
            time.sleep(0.001)

    caller = threading.Thread(target=call)
    caller.start()
    time.sleep(0.1)
    workers.join()
    done = runner.batches
    time.sleep(0.2)
    ended.set()
    caller.join()
    assert not any(thread.is_alive() for thread in workers._threads)
    assert runner.batches == done
    assert futures[-1].cancelled()


def test_the_end_waits_for_a_caller_that_is_inside_a_library() -> None:
    workers = Workers(SlowRunner(), threads=1, cores=1)
    inside, left = threading.Event(), threading.Event()

    def call() -> None:
        with workers.caller():
            inside.set()
            time.sleep(0.3)
            left.set()

    threading.Thread(target=call, daemon=True).start()
    inside.wait()
    workers.join()
    assert left.is_set()


class Faulty(SlowRunner):
    """Fails at every batch that holds the token 13."""

    budget = 100

    def run(self, tokens: Tokens, layers: int) -> np.ndarray:
        self.batches += 1
        time.sleep(0.02)
        if 13 in tokens.ids:
            raise ArithmeticError("13")
        return np.repeat(tokens.ids[np.cumsum(tokens.lengths) - 1][:, None].astype(np.float32), 4, axis=1)


def test_a_text_that_fails_does_so_alone() -> None:
    runner = Faulty()
    workers = Workers(runner, threads=1, cores=1)
    jobs = [workers.submit(Tokens(np.array([i]), np.array([1])), 1, shared=True) for i in range(10, 17)]
    for i, job in enumerate(jobs, start=10):
        if i == 13:
            with pytest.raises(ArithmeticError):
                job.future.result(timeout=10)
        else:
            assert job.future.result(timeout=10).tolist() == [[i] * 4]
    assert runner.batches > 2
    workers.join()


class HeldRunner(SlowRunner):
    """Runs nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def run(self, tokens: Tokens, layers: int) -> np.ndarray:
        self.released.wait(10)
        return super().run(tokens, layers)


def test_jobs_that_were_cancelled_do_not_run() -> None:
    runner = HeldRunner()
    workers = Workers(runner, threads=1, cores=1)
    jobs = [workers.submit(Tokens(np.arange(4), np.array([4])), 1) for _ in range(1500)]
    for job in jobs[1:-1]:
        job.future.cancel()
    runner.released.set()
    assert jobs[-1].future.result(timeout=10).shape == (1, 4)
    assert runner.batches <= 3
    workers.join()


class CountingRunner(SlowRunner):
    """Notes how many cores torch may use for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cores: list[int] = []

    def run(self, tokens: Tokens, layers: int) -> np.ndarray:
        self.cores.append(torch.get_num_threads())
        return super().run(tokens, layers)


def test_batches_side_by_side_get_a_core_each_and_one_alone_gets_more() -> None:
    usual = torch.get_num_threads()
    runner = CountingRunner()
    workers = Workers(runner, threads=2, cores=2)
    tokens = Tokens(np.arange(8), np.array([8]))
    try:
        for job in [workers.submit(tokens, 1) for _ in range(6)]:
            job.future.result(timeout=30)
        assert runner.cores == [1] * 6
        runner.cores.clear()
        job = workers.submit(tokens, 1, shared=True)
        job.future.result(timeout=30)
        assert runner.cores == [2]
    finally:
        workers.join()
    seen: list[int] = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [usual] == [torch.get_num_threads()]
