"""ElasticLoss equals the losses of sentence-transformers, in value and in every parameter's gradient."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from torch import Tensor, nn

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.losses.elastic_loss import ElasticLoss
from matryoshka2d.losses.objectives import AnglE, CoSENT, InfoNCE, Objective
from matryoshka2d.losses.strategies import MRL, Full, Matryoshka2d, Strategy
from matryoshka2d.losses.strategies.base import Shape, StepPlan
from tests import tiny

DIMS = (8, 16, 32)
ANCHORS = tiny.TEXTS
POSITIVES = [
    "the cat on the mat",
    "a dog runs in the rain",
    "a red house",
    "the river runs slowly",
    "a cat in the sun",
]
NEGATIVES = [
    "the sun",
    "a tree in the house",
    "a cat sat",
    "red red blue",
    "the dog sat on the house in rain",
]
SCORES = [0.9, 0.2, 0.5, 0.2, 1.0]
WEIGHTINGS = ("uniform", "log", "linear")


@dataclass(frozen=True)
class SeededLikeTheLibrary:
    """The plan that a strategy draws from python's generator right after `random.seed(seed)`."""

    strategy: Strategy
    seed: int

    def plan(self, shape: Shape, rng: random.Random) -> StepPlan:
        return self.strategy.plan(shape, random.Random(self.seed))


@dataclass(frozen=True)
class Twins:
    """The same weights as an elastic encoder and as a stock model."""

    ours: ElasticEncoder
    stock: SentenceTransformer


@pytest.fixture(scope="module", params=["normalized", "raw"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    without_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    folder = tiny.sentence_model(
        tmp_path_factory.mktemp(request.param), normalize=request.param == "normalized", **without_dropout
    )
    return Twins(ElasticEncoder(folder, device="cpu"), SentenceTransformer(folder, device="cpu"))


def batch(model: SentenceTransformer, *columns: list[str]) -> list[dict[str, Any]]:
    return [model.preprocess(column) for column in columns]


def value_and_gradients(
    model: nn.Module, loss: nn.Module, columns: list[dict[str, Any]], labels: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    model.train()
    model.zero_grad(set_to_none=True)
    value = loss(columns, labels)
    value.backward()
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
    return value.detach(), gradients


def assert_same(
    twins: Twins,
    objective: Objective,
    strategy: Strategy,
    theirs: Callable[[SentenceTransformer], nn.Module],
    columns: list[list[str]],
    scores: list[float] | None = None,
    seed: int = 0,
) -> None:
    labels = None if scores is None else torch.tensor(scores)
    elastic = ElasticLoss(twins.ours, objective, strategy)
    ours = value_and_gradients(twins.ours, elastic, batch(twins.ours, *columns), labels)
    random.seed(seed)
    stock = value_and_gradients(twins.stock, theirs(twins.stock), batch(twins.stock, *columns), labels)
    assert stock[0] > 0.1
    assert max(gradient.abs().max() for gradient in stock[1].values()) > 1e-2
    torch.testing.assert_close(ours[0], stock[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1], stock[1], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("columns", [[ANCHORS, POSITIVES], [ANCHORS, POSITIVES, NEGATIVES]])
def test_full_with_infonce_is_multiple_negatives_ranking(twins: Twins, columns: list[list[str]]) -> None:
    assert_same(twins, InfoNCE(scale=20), Full(), losses.MultipleNegativesRankingLoss, columns)


def test_full_with_cosent_is_cosent(twins: Twins) -> None:
    assert_same(twins, CoSENT(), Full(), losses.CoSENTLoss, [ANCHORS, POSITIVES], SCORES)


def test_full_with_the_angle_term_alone_is_angle(twins: Twins) -> None:
    objective = AnglE(ibn_weight=0)
    assert_same(twins, objective, Full(), losses.AnglELoss, [ANCHORS, POSITIVES], SCORES)


def test_mrl_is_matryoshka(twins: Twins) -> None:
    def theirs(model: SentenceTransformer) -> nn.Module:
        base = losses.MultipleNegativesRankingLoss(model, scale=20)
        return losses.MatryoshkaLoss(model, base, list(DIMS), n_dims_per_step=-1)

    assert_same(twins, InfoNCE(scale=20), MRL(DIMS), theirs, [ANCHORS, POSITIVES, NEGATIVES])


def matryoshka2d_loss(per_step: int, **options: Any) -> Callable[[SentenceTransformer], nn.Module]:
    def make(model: SentenceTransformer) -> nn.Module:
        base = losses.MultipleNegativesRankingLoss(model, scale=20)
        steps = {"n_layers_per_step": per_step, "n_dims_per_step": per_step}
        return losses.Matryoshka2dLoss(model, base, list(DIMS), **steps, **options)

    return make


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_matryoshka2d_of_all_layers_and_dims(twins: Twins, weighting: Any) -> None:
    strategy = Matryoshka2d(DIMS, layers_per_step=-1, dims_per_step=-1, depth_weights=weighting)
    theirs = matryoshka2d_loss(-1, layer_weighting=weighting)
    assert_same(twins, InfoNCE(scale=20), strategy, theirs, [ANCHORS, POSITIVES])


def test_matryoshka2d_with_every_weight_and_temperature_changed(twins: Twins) -> None:
    strategy = Matryoshka2d(
        DIMS,
        dim_weights=(0.5, 1.0, 2.0),
        layers_per_step=-1,
        dims_per_step=-1,
        last_layer_weight=0.7,
        prior_layers_weight=1.3,
        alignment_weight=5.0,
        temperature=0.1,
    )
    theirs = matryoshka2d_loss(
        -1,
        matryoshka_weights=[0.5, 1.0, 2.0],
        last_layer_weight=0.7,
        prior_layers_weight=1.3,
        kl_div_weight=5.0,
        kl_temperature=0.1,
    )
    assert_same(twins, InfoNCE(scale=20), strategy, theirs, [ANCHORS, POSITIVES])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("seed", range(4))
def test_matryoshka2d_draws_the_layers_and_dims_that_the_library_draws(
    twins: Twins, seed: int, weighting: Any
) -> None:
    strategy = SeededLikeTheLibrary(Matryoshka2d(DIMS, depth_weights=weighting), seed)
    theirs = matryoshka2d_loss(1, layer_weighting=weighting)
    assert_same(twins, InfoNCE(scale=20), strategy, theirs, [ANCHORS, POSITIVES], seed=seed)


def test_the_seeds_draw_different_sizes() -> None:
    shape = Shape(tiny.LAYERS, tiny.WIDTH)
    plans = {Matryoshka2d(DIMS).plan(shape, random.Random(seed)).terms for seed in range(4)}
    assert len(plans) == 4


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(("layers_per_step", "seed"), [(-1, 0), (1, 0), (1, 1), (2, 2)])
def test_matryoshka2d_at_full_width_is_adaptive_layers(
    twins: Twins, layers_per_step: int, seed: int, weighting: Any
) -> None:
    def theirs(model: SentenceTransformer) -> nn.Module:
        base = losses.CoSENTLoss(model)
        return losses.AdaptiveLayerLoss(model, base, layers_per_step, layer_weighting=weighting)

    strategy = Matryoshka2d((tiny.WIDTH,), layers_per_step=layers_per_step, depth_weights=weighting)
    seeded = SeededLikeTheLibrary(strategy, seed)
    assert_same(twins, CoSENT(), seeded, theirs, [ANCHORS, POSITIVES], SCORES, seed=seed)


def test_the_comparison_notices_a_wrong_weight(twins: Twins) -> None:
    strategy = Matryoshka2d(DIMS, layers_per_step=-1, dims_per_step=-1, last_layer_weight=1.001)
    with pytest.raises(AssertionError, match="not close"):
        assert_same(twins, InfoNCE(scale=20), strategy, matryoshka2d_loss(-1), [ANCHORS, POSITIVES])
