"""Pieces of work on cores of their own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from matryoshka2d.encoder.cores import side_by_side
from matryoshka2d.encoder.elastic import ElasticEncoder
from tests import tiny


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_pieces_run_at_once_on_one_core_each_and_the_caller_keeps_its_cores(two_cores: None) -> None:
    meet = threading.Barrier(2, timeout=20)

    def piece(_: int) -> int:
        meet.wait()
        return torch.get_num_threads()

    assert list(side_by_side(piece, range(2))) == [1, 1]
    assert torch.get_num_threads() == 2
    seen: list[int] = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [2]


def test_results_come_in_the_order_of_the_items(two_cores: None) -> None:
    assert list(side_by_side(lambda i: i * i, iter(range(50)))) == [i * i for i in range(50)]


def test_after_a_mistake_nothing_is_still_running(two_cores: None) -> None:
    began, ended = threading.Event(), threading.Event()

    def work(item: int) -> None:
        if item == 0:
            began.wait(20)
            raise ValueError("broken")
        began.set()
        time.sleep(0.1)
        ended.set()

    with pytest.raises(ValueError, match="broken"):
        list(side_by_side(work, range(2)))
    assert ended.is_set()


def test_items_are_read_only_a_few_ahead(two_cores: None) -> None:
    read: list[int] = []
    results = side_by_side(lambda i: i, (read.append(i) or i for i in range(100)))  # type: ignore[func-returns-value]
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert len(read) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_threads_of_its_own(two_cores: None) -> None:
    assert list(side_by_side(abs, [1, -2])) == [1, 2]
    child = os.fork()
    if child == 0:
        os._exit(0 if list(side_by_side(abs, [1, -2])) == [1, 2] else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "modernbert", "qwen3"])
def test_exits_are_those_of_one_core(two_cores: None, tmp_path: Path, model_type: str) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path, model_type), device="cpu")
    texts = [" ".join(tiny.WORDS.split()[: 1 + i % 9]) for i in range(40)]
    found = encoder.exits(texts, batch_size=4)
    torch.set_num_threads(1)
    expected = encoder.exits(texts, batch_size=4)
    for layers, vectors in expected.items():
        np.testing.assert_allclose(found[layers], vectors, atol=1e-6)
