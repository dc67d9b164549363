"""Groups on cores of their own give what they give one after the other, gradients and dropout included."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.losses.columns import exit_columns, run_columns, table_of
from matryoshka2d.losses.lanes import divide, run_in_lanes
from matryoshka2d.training.model_settings import set_checkpointing, set_dropout
from tests import tiny

TEXTS = ["a", "a red house", "the dog", "a red house in the rain", "rain", "the red dog in a house"] * 2
LAYERS = (1, 3)
"""The tiny model has a fourth layer, which these exits do not read."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ElasticEncoder:
    folder: Path = tiny.sentence_model(tmp_path_factory.mktemp("model"), "bert")
    # In fp64: sums of gradients that nearly cancel have no digits left in fp32, in whatever order.
    return ElasticEncoder(folder, device="cpu").double()


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Let torch use so many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def step(
    encoder: ElasticEncoder,
    cores: int,
    *,
    dropout: float = 0.0,
    lanes: bool = True,
    words: bool = True,
    tokens: int | None = None,
) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """Return the vectors of a batch in groups of three, and the gradient of a function of them."""
    encoder.train()
    encoder.zero_grad(set_to_none=True)
    columns = [encoder.preprocess(TEXTS[:6]), encoder.preprocess(TEXTS[6:])]
    put_back = set_dropout(encoder.base, dropout)
    torch.manual_seed(3)
    with on_cores(cores):
        exits = exit_columns(
            encoder.exit_vectors,
            columns,
            LAYERS,
            rows_per_group=3,
            mini_batch_tokens=tokens,
            table=table_of(encoder.base) if words else None,
            weights=list(encoder.parameters()) if lanes else (),
        )
        vectors = [column for n in LAYERS for column in exits[n]]
        sum(column.square().sum() * (k + 1) for k, column in enumerate(vectors)).backward()  # type: ignore[union-attr]
    put_back()
    found = {name: None if p.grad is None else p.grad.clone() for name, p in encoder.named_parameters()}
    return [vector.detach() for vector in vectors], found


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("words", [True, False])
def test_vectors_and_gradients_are_those_of_groups_one_after_the_other(
    encoder: ElasticEncoder, cores: int, words: bool
) -> None:
    expected = step(encoder, 1, lanes=False, words=words)
    found = step(encoder, cores, words=words)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    unread = [name for name, gradient in found[1].items() if ".layer.3." in name and gradient is not None]
    assert unread == []


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_same_cores_give_the_same_bits_and_other_cores_the_same_masks(
    encoder: ElasticEncoder, cores: int
) -> None:
    one, again = (step(encoder, cores, dropout=0.3) for _ in range(2))
    torch.testing.assert_close(again, one, rtol=0, atol=0)
    other = step(encoder, 4, dropout=0.3)
    torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(one[0][0], step(encoder, cores)[0][0], atol=1e-3)


def test_mixed_precision_of_the_caller_is_that_of_the_lanes(encoder: ElasticEncoder) -> None:
    encoder = copy.deepcopy(encoder).float().eval()
    columns = [encoder.preprocess(TEXTS)]
    run = partial(exit_columns, encoder.exit_vectors, columns, LAYERS, rows_per_group=3)
    with torch.autocast("cpu", dtype=torch.bfloat16), on_cores(2):
        expected, found = run(), run(weights=list(encoder.parameters()))
    assert not torch.equal(expected[3][0], run()[3][0])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_groups_that_run_again_give_the_same_gradients_and_draw_the_same_masks(cores: int) -> None:
    weight, own = torch.randn(8, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    runs = 0

    def group(leaves: Sequence[Tensor]) -> list[Tensor]:
        nonlocal runs
        runs += 1
        return [torch.nn.functional.dropout(leaves[0] @ weight, 0.5)]

    def gradients(replay: bool) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        with on_cores(cores):
            found = run_in_lanes([group] * 5, [3, 1, 2, 1, 4], [weight], [own], replay=replay)
            total = torch.stack(
                [(k + 1) * vectors[0].square().sum() for k, vectors in enumerate(found)]
            ).sum()
            return (total.detach(), *torch.autograd.grad(total, [weight, own]))

    expected = gradients(False)
    assert runs == 5
    torch.testing.assert_close(gradients(True), expected, rtol=1e-5, atol=1e-5)
    assert runs == 15


def test_mini_batches_of_a_large_batch_are_lanes_too(encoder: ElasticEncoder) -> None:
    expected = step(encoder, 1, lanes=False)
    found = step(encoder, 2, tokens=12)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_mistake_in_one_group_is_the_callers(encoder: ElasticEncoder) -> None:
    def fails(_: Any) -> list[Tensor]:
        raise ValueError("no such word")

    weight = torch.ones(2, requires_grad=True)
    with on_cores(2), pytest.raises(ValueError, match="no such word"):
        run_in_lanes([lambda _: [weight * 2], fails], [1, 1], [weight])


def test_layers_that_run_again_in_the_backward_pass_stay_out_of_lanes(encoder: ElasticEncoder) -> None:
    encoder.train()
    columns = [encoder.preprocess(TEXTS * 3)]
    put_back = set_dropout(encoder.base, 0.3)
    set_checkpointing(encoder.base, True)
    try:
        encoder.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        run_columns(encoder, columns, LAYERS)[3][0].square().sum().backward()
        again = [None if p.grad is None else p.grad.clone() for p in encoder.parameters()]
        set_checkpointing(encoder.base, False)
        encoder.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        exit_columns(encoder.exit_vectors, columns, LAYERS)[3][0].square().sum().backward()
    finally:
        set_checkpointing(encoder.base, False)
        put_back()
    torch.testing.assert_close(again, [p.grad for p in encoder.parameters()], rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(1, 8))
def test_every_group_is_in_one_lane_and_no_lane_has_a_group_too_many(costs: list[int], lanes: int) -> None:
    divided = divide(costs, lanes)
    assert sorted(i for lane in divided for i in lane) == list(range(len(costs)))
    assert len(divided) == min(lanes, len(costs))
    loads = [sum(costs[i] for i in lane) for lane in divided]
    smallest_last = [costs[lane[-1]] for lane in divided]
    assert all(load - last <= min(loads) for load, last in zip(loads, smallest_last, strict=True))
