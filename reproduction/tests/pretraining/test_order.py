"""The order of the texts: all of them once, batches of similar length, and what rng depends on."""

from __future__ import annotations

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d_reproduction.pretraining.order import SimilarLengths, similar_lengths


@given(st.lists(st.integers(1, 500), min_size=1, max_size=300), st.integers(1, 40), st.integers(0, 2**32))
def test_every_text_comes_once(lengths: list[int], batch_size: int, seed: int) -> None:
    order = similar_lengths(torch.tensor(lengths), batch_size, torch.Generator().manual_seed(seed))
    assert sorted(order) == list(range(len(lengths)))


def test_little_is_padded_and_batches_are_in_no_order_of_length() -> None:
    rng = random.Random(0)
    lengths = torch.tensor([rng.randint(1, 100) for _ in range(4000)])
    order = similar_lengths(lengths, 32, torch.Generator().manual_seed(0))
    batches = lengths[torch.tensor(order)].view(-1, 32).float()
    padded = batches.amax(dim=1, keepdim=True).expand_as(batches)
    assert batches.sum() / padded.sum() > 0.95
    means = batches.mean(dim=1)
    assert abs(torch.corrcoef(torch.stack([means[1:], means[:-1]]))[0, 1]) < 0.3


def test_the_order_depends_on_the_seed_and_the_epoch_alone() -> None:
    texts = ["a" * (n % 17 + 1) for n in range(100)]
    one, two = (SimilarLengths(texts, 8, seed=0) for _ in range(2))
    first = list(one)
    torch.manual_seed(5)
    assert list(two) == first == list(one)
    two.epoch = 1
    assert list(two) != first
    assert list(SimilarLengths(texts, 8, seed=1)) != first
    assert len(one) == 100
