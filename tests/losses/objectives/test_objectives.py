"""Objectives equal sentence-transformers and the written-out formulas, in value and in gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer import losses
from torch import Tensor, nn

from matryoshka2d.losses.objectives import AnglE, CoSENT, Distillation, InfoNCE
from matryoshka2d.losses.objectives.cosent import ranking_loss
from tests.losses.objectives import references

SCORES = [0.9, 0.2, 0.2, 1.0, 0.0, 0.6, 1.0]
ROWS = len(SCORES)


class Stub(nn.Module):
    """A model whose forward hands back the vectors that it is given."""

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**features, "sentence_embedding": features["vectors"]}


def vectors(columns: int, dims: int = 6, seed: int = 0, rows: int = ROWS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    make = (torch.randn(rows, dims, generator=generator, dtype=torch.float64) for _ in range(columns))
    return [column.requires_grad_() for column in make]


def scores() -> Tensor:
    return torch.tensor(SCORES, dtype=torch.float64)


def assert_equal(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], columns: list[Tensor]) -> None:
    """Compare two losses of the same columns, and their gradients with respect to each column."""
    got, expected = ours(columns), theirs(columns)
    assert expected.item() > 0
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7, check_dtype=False)
    got_grads, expected_grads = (
        torch.autograd.grad(loss, columns, retain_graph=True) for loss in (got, expected)
    )
    assert max(grad.abs().max() for grad in expected_grads) > 0
    torch.testing.assert_close(got_grads, expected_grads, rtol=1e-5, atol=1e-7, check_dtype=False)


def stock(loss: nn.Module, labels: Tensor | None) -> Callable[[list[Tensor]], Tensor]:
    return lambda columns: loss([{"vectors": column} for column in columns], labels)


# Against sentence-transformers


@pytest.mark.parametrize("scale", [20.0, 3.0])
def test_cosent_equals_sentence_transformers(scale: float) -> None:
    theirs = stock(losses.CoSENTLoss(Stub(), scale=scale), scores())
    assert_equal(lambda columns: CoSENT(scale)(columns, scores()), theirs, vectors(2))


@pytest.mark.parametrize("tau", [20.0, 3.0])
def test_angle_alone_equals_sentence_transformers(tau: float) -> None:
    ours = AnglE(cosine_weight=0, ibn_weight=0, angle_weight=1, angle_tau=tau)
    theirs = stock(losses.AnglELoss(Stub(), scale=tau), scores())
    assert_equal(lambda columns: ours(columns, scores()), theirs, vectors(2))


@pytest.mark.parametrize("columns", [3, 4])
def test_angle_alone_on_triplets_equals_sentence_transformers(columns: int) -> None:
    ours = AnglE(cosine_weight=0, ibn_weight=0, angle_weight=1)
    assert_equal(ours, stock(losses.AnglELoss(Stub()), None), vectors(columns))


@pytest.mark.parametrize("scale", [20.0, 3.0])
@pytest.mark.parametrize("columns", [2, 3, 5])
def test_infonce_equals_sentence_transformers(columns: int, scale: float) -> None:
    theirs = stock(losses.MultipleNegativesRankingLoss(Stub(), scale=scale), None)
    assert_equal(InfoNCE(scale), theirs, vectors(columns))


# Against the formulas


def test_cosent_equals_its_formula() -> None:
    def formula(columns: list[Tensor]) -> Tensor:
        pairs = zip(*columns, strict=True)
        return references.ranking([references.cosine(a, b) for a, b in pairs], SCORES, 20)

    assert_equal(lambda columns: CoSENT()(columns, scores()), formula, vectors(2))


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_infonce_equals_its_formula(columns: int) -> None:
    assert_equal(InfoNCE(7), lambda given: references.infonce(given, 7), vectors(columns, seed=1))


WEIGHTS, TAUS = (0.7, 3.0, 2.0), (11.0, 5.0, 8.0)


@pytest.mark.parametrize("positive", [1.0, 0.6])
def test_angle_on_scored_pairs_equals_its_formula(positive: float) -> None:
    ours = AnglE(*WEIGHTS, *TAUS, positive_label=positive)
    assert_equal(
        lambda columns: ours(columns, scores()),
        lambda columns: references.angle(columns, SCORES, WEIGHTS, TAUS, positive),
        vectors(2, seed=2),
    )


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_angle_without_labels_equals_its_formula(columns: int) -> None:
    ours = AnglE(*WEIGHTS, *TAUS)
    assert_equal(ours, lambda given: references.angle(given, None, WEIGHTS, TAUS), vectors(columns, seed=3))


def test_angle_has_the_published_defaults() -> None:
    columns = vectors(3, seed=4)
    expected = references.angle(columns, None, (0, 30, 1), (20, 20, 20))
    torch.testing.assert_close(AnglE()(columns), expected)


@pytest.mark.parametrize("match", [False, True])
@pytest.mark.parametrize(("columns", "width"), [(1, 6), (1, 9), (3, 9)])
def test_distillation_equals_its_formula(columns: int, width: int, match: bool) -> None:
    teacher = torch.stack([column.detach() for column in vectors(columns, width, seed=5)], dim=1)
    ours = Distillation(2.0, 0.3, match_vectors=match, temperature=0.2)
    assert_equal(
        lambda given: ours(given, teacher if columns > 1 else teacher[:, 0]),
        lambda given: references.distillation(given, teacher, 0.2, 2.0, 0.3 * match),
        vectors(columns),
    )


def test_distillation_keeps_each_columns_teacher_with_its_column() -> None:
    columns = [column.detach() for column in vectors(2)]
    teacher = torch.stack(columns, dim=1)
    only_vectors = Distillation(similarity_weight=0, match_vectors=True)
    assert only_vectors(columns, teacher).item() == pytest.approx(0, abs=1e-12)
    assert only_vectors(columns, teacher.flip(1)).item() > 0.1


def test_a_teacher_narrower_than_the_size_teaches_similarities_alone() -> None:
    columns, teacher = vectors(1, 6), vectors(1, 4, seed=6)[0].detach()
    both = Distillation(match_vectors=True)(columns, teacher)
    torch.testing.assert_close(both, Distillation(match_vectors=False)(columns, teacher))


def test_no_gradient_reaches_the_teacher() -> None:
    (student,), (teacher,) = vectors(1), vectors(1, seed=7)
    Distillation(match_vectors=True)([student], teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


# Anything that is changed must show


@pytest.mark.parametrize(
    ("ours", "labels", "columns"),
    [
        (CoSENT(scale=19), scores(), 2),
        (InfoNCE(scale=19), None, 3),
        (AnglE(cosine_weight=0.1), scores(), 2),
        (AnglE(ibn_weight=29), scores(), 2),
        (AnglE(ibn_weight=29), None, 3),
        (AnglE(angle_weight=0.9), scores(), 2),
        (AnglE(angle_weight=0.9), None, 3),
        (AnglE(ibn_tau=19), scores(), 2),
        (AnglE(ibn_tau=19), None, 3),
        (AnglE(angle_tau=19), None, 3),
        (AnglE(positive_label=0.9), scores(), 2),
        (Distillation(temperature=0.06), vectors(1, 8, seed=8)[0].detach(), 1),
        (Distillation(similarity_weight=0.9), vectors(1, 8, seed=8)[0].detach(), 1),
        (Distillation(match_vectors=True), vectors(1, 8, seed=8)[0].detach(), 1),
    ],
    ids=repr,
)
def test_every_option_changes_the_loss(ours: Any, labels: Tensor | None, columns: int) -> None:
    given = vectors(columns)
    default = type(ours)()(given, labels)
    assert (ours(given, labels) - default).abs() > 1e-4 * default.abs()


def test_the_cosine_tau_and_the_vector_weight_change_the_loss() -> None:
    given, teacher = vectors(2), torch.stack(vectors(2, 8, seed=8), dim=1).detach()
    taus = [AnglE(cosine_weight=1, cosine_tau=tau)(given, scores()) for tau in (20, 19)]
    weights = [Distillation(vector_weight=w, match_vectors=True)(given, teacher) for w in (1, 0.9)]
    assert abs(taus[0] - taus[1]) > 1e-3
    assert abs(weights[0] - weights[1]) > 1e-3


# Properties


@pytest.mark.parametrize("ours", [CoSENT(), InfoNCE(), AnglE(), Distillation(match_vectors=True)], ids=repr)
def test_length_of_vectors_does_not_matter(ours: Any) -> None:
    columns = vectors(2)
    labels = torch.stack(vectors(2, seed=9), dim=1).detach() if ours.needs_teacher else scores()
    labels = None if isinstance(ours, InfoNCE) else labels
    longer = [column * 7 for column in columns]
    torch.testing.assert_close(ours(longer, labels), ours(columns, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    columns = [column.detach().to(dtype) for column in vectors(3)]
    for ours in (InfoNCE(), AnglE()):
        loss = ours(columns)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, ours([column.float() for column in columns]))


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_ties_ask_for_nothing(labels: list[int]) -> None:
    left, right = vectors(2, rows=3)
    assert CoSENT()([left, right], torch.tensor(labels)).item() == 0


def test_a_last_batch_of_one_row_has_a_finite_loss_and_gradient() -> None:
    for ours, labels, columns in [
        (CoSENT(), torch.tensor([0.5]), 2),
        (InfoNCE(), None, 2),
        (AnglE(), torch.tensor([1.0]), 2),
        (AnglE(), None, 3),
        (Distillation(), torch.ones(1, 6), 1),
    ]:
        given = vectors(columns, rows=1)
        loss = ours(given, labels)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(column.grad).all() for column in given if column.grad is not None)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 0.25, 0.5, 1]), st.floats(-20, 20, allow_nan=False)),
        min_size=1,
        max_size=9,
    )
)
def test_the_ranking_is_the_double_sum_whatever_the_ties(pairs: list[tuple[float, float]]) -> None:
    labels = [label for label, _ in pairs]
    values = torch.tensor([value for _, value in pairs], dtype=torch.float64)
    expected = references.ranking(list(values), labels, 1.0)
    torch.testing.assert_close(ranking_loss(values, torch.tensor(labels)), expected)
