"""Gradient caching: the gradient of the whole batch, from mini-batches, whatever is trained."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.losses.all_gather import same_chance
from matryoshka2d.losses.columns import (
    Words,
    _grouped,
    _merge,
    _run_in_groups,
    _slices,
    exit_columns,
    table_of,
)
from matryoshka2d.losses.elastic_loss import ElasticLoss
from matryoshka2d.losses.strategies import STRATEGIES, Shape, make_strategy
from matryoshka2d.losses.strategies.base import StepRandom
from matryoshka2d.training.model_settings import set_checkpointing
from matryoshka2d.training.teacher import TeacherVectors
from tests import tiny
from tests.loss_cases import Computed, assert_same, step_loss, value_and_gradients
from tests.training import small

ROWS = 12
TOKENS = 40
"""A budget that makes several mini-batches of `ROWS` rows."""

TEACHER = TeacherVectors(
    np.random.default_rng(0).normal(size=(3 * ROWS, 20)).astype(np.float32),
    np.arange(3 * ROWS).reshape(ROWS, 3),
)

# What is learnt, the form of the rows, and whether a frozen teacher is heard.
CASES = {
    "infonce on pairs": ("infonce", "pairs", False),
    "infonce on triplets": ("infonce", "triplets", False),
    "angle on triplets": ("angle", "triplets", False),
    "angle on scored pairs": ("angle", "scored", False),
    "cosent": ("cosent", "scored", False),
    "distillation from itself": ("distillation", "triplets", False),
    "distillation from a teacher": ("distillation", "triplets", True),
    "infonce and a teacher": ("infonce", "triplets", True),
    "cosent and a teacher": ("cosent", "scored", True),
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], ElasticEncoder]:
    """Return a maker of models with heads and a given dropout."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[float, ElasticEncoder] = {}

    def make(dropout: float) -> ElasticEncoder:
        if dropout not in made:
            settings = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
            path = tiny.sentence_model(folder / str(dropout), initializer_range=0.1, **settings)
            made[dropout] = ElasticEncoder(path, device="cpu").train()
            made[dropout].add_heads()
        return made[dropout]

    return make


def batch(encoder: ElasticEncoder, form: str) -> tuple[list[dict[str, Any]], Tensor | None]:
    """Return the columns and the scores of a batch."""
    rows = small.rows(form, ROWS)
    names = [name for name in rows[0] if name != "score"]
    columns = [encoder.preprocess([row[name] for row in rows]) for name in names]
    return columns, torch.tensor([row["score"] for row in rows]) if form == "scored" else None


def labels_of(case: str, scores: Tensor | None) -> Tensor | None:
    if not CASES[case][2]:
        return scores
    numbers = torch.arange(ROWS)
    return numbers if scores is None else torch.stack([scores, numbers.float()], dim=1)


def lookup_of(case: str) -> TeacherVectors | None:
    columns = 2 if CASES[case][1] == "scored" else 3
    return TeacherVectors(TEACHER.vectors, TEACHER.text_of[:, :columns]) if CASES[case][2] else None


def seeded(encoder: ElasticEncoder, make: Callable[[], Tensor]) -> Computed:
    """Return a loss and its gradients, from one random state."""
    torch.manual_seed(3)
    return value_and_gradients(encoder, make)


def combinations() -> list[tuple[str, str]]:
    """Return every strategy with everything that it can learn from."""
    found = [(case, strategy) for case in CASES for strategy in STRATEGIES]
    # A teacher beside labels is heard by all-sizes alone; the full size has nothing to learn from itself.
    deaf = {case for case, (objective, _, taught) in CASES.items() if taught and objective != "distillation"}
    found = [pair for pair in found if pair[0] not in deaf or pair[1] == "all-sizes"]
    found.remove(("distillation from itself", "full"))
    return found


@pytest.mark.parametrize(("case", "strategy"), combinations())
def test_without_dropout_it_is_the_gradient_of_the_whole_batch(
    encoders: Callable[[float], ElasticEncoder], case: str, strategy: str
) -> None:
    encoder = encoders(0.0)
    columns, scores = batch(encoder, CASES[case][1])
    labels = labels_of(case, scores)

    def loss(**how: Any) -> Tensor:
        made = ElasticLoss(encoder, CASES[case][0], strategy, teacher=lookup_of(case), **how)
        return made(columns, labels)

    whole = seeded(encoder, lambda: loss(rows_per_group=1000))
    assert_same(seeded(encoder, lambda: loss(mini_batch_tokens=TOKENS)), whole)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_dropout_it_is_the_gradient_of_the_same_mini_batches_uncached(
    encoders: Callable[[float], ElasticEncoder], strategy: str
) -> None:
    encoder = encoders(0.1)
    columns, _ = batch(encoder, "triplets")
    loss = ElasticLoss(encoder, "infonce", strategy, mini_batch_tokens=TOKENS)

    def uncached() -> Tensor:
        plan, merged = loss.plan(), _merge(columns)
        members = _grouped(merged["attention_mask"].sum(dim=1), _slices(True, None, TOKENS))
        assert len(members) > 3
        table = table_of(encoder.base)
        assert table is not None
        merged = {**merged, "words": Words(table, [merged["input_ids"]])}
        weights = [weight for weight in encoder.parameters() if weight.requires_grad]
        vectors = _run_in_groups(encoder.exit_vectors, merged, plan.layers(), members, weights)
        exits = {n: vectors[n].split(ROWS) for n in plan.layers()}
        chance = StepRandom(loss.seed, loss.step).getrandbits(63)
        with same_chance(chance, torch.device("cpu")):
            return step_loss(plan, exits, loss.objective, None, loss.as_output)

    expected = seeded(encoder, uncached)
    assert_same(seeded(encoder, lambda: loss(columns)), expected)


def test_dropout_is_really_drawn_and_really_drawn_again(encoders: Callable[[float], ElasticEncoder]) -> None:
    encoder = encoders(0.1)
    columns, _ = batch(encoder, "pairs")
    loss = ElasticLoss(encoder, "infonce", "mrl", mini_batch_tokens=TOKENS)
    first, _ = seeded(encoder, lambda: loss(columns))
    torch.manual_seed(4)
    assert not torch.allclose(loss(columns), first)


def test_a_step_leaves_the_random_state_where_it_would_be_without_a_cache(
    encoders: Callable[[float], ElasticEncoder],
) -> None:
    encoder = encoders(0.1)
    columns, _ = batch(encoder, "pairs")
    loss = ElasticLoss(encoder, "infonce", "full", mini_batch_tokens=TOKENS)
    torch.manual_seed(0)
    cached = loss(columns)
    after_forward = torch.get_rng_state()
    cached.backward()
    assert torch.equal(torch.get_rng_state(), after_forward)


def test_the_encoder_keeps_nothing_but_vectors_until_the_backward_pass(
    encoders: Callable[[float], ElasticEncoder],
) -> None:
    encoder = encoders(0.1)
    columns, _ = batch(encoder, "pairs")
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept.append(tensor.numel())
        return tensor

    def kept_by(**how: Any) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            exit_columns(encoder.exit_vectors, columns, (1, 2, 3, 4), **how)
        return sum(kept)

    vectors = 4 * 2 * ROWS * tiny.WIDTH
    assert kept_by(mini_batch_tokens=TOKENS) <= vectors
    assert kept_by() > 20 * vectors


def test_an_evaluation_needs_no_gradient(encoders: Callable[[float], ElasticEncoder]) -> None:
    encoder = encoders(0.0)
    columns, _ = batch(encoder, "pairs")
    loss = ElasticLoss(encoder, mini_batch_tokens=TOKENS).eval()
    with torch.no_grad():
        found = loss(columns)
    assert not found.requires_grad
    torch.testing.assert_close(found, ElasticLoss(encoder).eval()(columns))


def test_in_bf16_it_is_the_gradient_of_the_whole_batch_within_its_rounding(
    encoders: Callable[[float], ElasticEncoder],
) -> None:
    encoder = encoders(0.0)
    columns, _ = batch(encoder, "triplets")

    def loss(**how: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ElasticLoss(encoder, "infonce", "all-sizes", **how)(columns)

    value, whole = seeded(encoder, lambda: loss(rows_per_group=1000))
    found, cached = seeded(encoder, lambda: loss(mini_batch_tokens=TOKENS))
    torch.testing.assert_close(found, value, rtol=1e-2, atol=1e-2)
    ours, theirs = (torch.cat([grads[name].flatten() for name in whole]) for grads in (cached, whole))
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.999


def test_shallow_queries_that_meet_deep_documents_are_cached_too(
    encoders: Callable[[float], ElasticEncoder],
) -> None:
    encoder = encoders(0.0)
    columns, _ = batch(encoder, "pairs")
    whole = seeded(encoder, lambda: ElasticLoss(encoder, cross_exit=1.0)(columns))
    plain, _ = seeded(encoder, lambda: ElasticLoss(encoder)(columns))
    assert (whole[0] - plain).abs() > 0.1
    cached = ElasticLoss(encoder, cross_exit=1.0, mini_batch_tokens=TOKENS)
    assert_same(seeded(encoder, lambda: cached(columns)), whole)
    assert any(name.startswith("cross_exit_loss/") for name in cached.by_size.take())


def test_layers_may_be_checkpointed_within_mini_batches(encoders: Callable[[float], ElasticEncoder]) -> None:
    encoder = encoders(0.1)
    columns, _ = batch(encoder, "pairs")

    def total() -> Tensor:
        exits = exit_columns(encoder.exit_vectors, columns, (2, 4), mini_batch_tokens=TOKENS)
        return torch.stack([column.square().mean() for own in exits.values() for column in own]).sum()

    expected = seeded(encoder, total)
    set_checkpointing(encoder.base, True)
    try:
        assert_same(seeded(encoder, total), expected)
    finally:
        set_checkpointing(encoder.base, False)


def test_a_gradient_that_goes_through_the_teacher_is_cached_too(
    encoders: Callable[[float], ElasticEncoder],
) -> None:
    encoder = encoders(0.0)
    columns, _ = batch(encoder, "pairs")
    strategy = make_strategy("2dmse", variant="first-code")
    assert not any(pull.detach for pull in strategy.plan(Shape(4, tiny.WIDTH), random.Random(0)).pulls)
    whole = seeded(encoder, lambda: ElasticLoss(encoder, "infonce", strategy)(columns))
    cached = ElasticLoss(encoder, "infonce", strategy, mini_batch_tokens=TOKENS)
    assert_same(seeded(encoder, lambda: cached(columns)), whole)


@pytest.mark.parametrize("tokens", [1, 9, 30, 10_000])
def test_any_budget_gives_the_same_vectors_and_is_kept(
    encoders: Callable[[float], ElasticEncoder], tokens: int
) -> None:
    encoder = encoders(0.0).eval()
    columns, _ = batch(encoder, "triplets")
    seen: list[tuple[int, int]] = []

    def run(features: dict[str, Any], layers: Sequence[int]) -> dict[int, Tensor]:
        seen.append(tuple(features["input_ids"].shape))
        return encoder.exit_vectors(features, layers)

    expected = exit_columns(encoder.exit_vectors, columns, (2, 4))
    found = exit_columns(run, columns, (2, 4), mini_batch_tokens=tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert sum(rows for rows, _ in seen) == 3 * ROWS
    assert all(rows * width <= tokens or rows == 1 for rows, width in seen)
    encoder.train()
