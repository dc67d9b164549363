"""Alignments equal the written-out formulas, in value and in gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from matryoshka2d.errors import UserError
from matryoshka2d.losses.objectives import distillation
from matryoshka2d.losses.strategies.alignment import CoordinateKL, PcaTarget, SimilarityKL, pca_compress
from tests.losses.objectives import references


def vectors(columns: int, dims: int, seed: int, rows: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    make = (torch.randn(rows, dims, generator=generator, dtype=torch.float64) for _ in range(columns))
    return [column.requires_grad_() for column in make]


def assert_equal(got: Tensor, expected: Tensor, columns: list[Tensor]) -> None:
    assert expected.item() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)
    grads = [torch.autograd.grad(loss, columns, retain_graph=True) for loss in (got, expected)]
    assert max(grad.abs().max() for grad in grads[1]) > 0
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize(
    ("ours", "divisor", "factor"),
    [
        (CoordinateKL(), 1, 1),
        (CoordinateKL(0.3), 0.3, 1),
        (CoordinateKL(0.3, times_temperature=True), 0.3, 0.3),
        (CoordinateKL(0.3, in_softmax=False, times_temperature=True), 1, 0.3),
    ],
    ids=repr,
)
def test_coordinate_kl(ours: CoordinateKL, divisor: float, factor: float, columns: int) -> None:
    student, teacher = vectors(columns, 4, 0), vectors(columns, 4, 1)
    expected = references.coordinate_kl(student, teacher, divisor, factor)
    assert_equal(ours(student, teacher), expected, [*student, *teacher])


def test_coordinate_kl_goes_from_the_teacher_to_the_student() -> None:
    student, teacher = vectors(1, 4, 0), vectors(1, 4, 1)
    assert abs(CoordinateKL()(student, teacher) - CoordinateKL()(teacher, student)) > 1e-3


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("columns", [2, 3])
def test_similarity_kl_of_anchors_to_all_other_texts(columns: int, temperature: float) -> None:
    student, teacher = vectors(columns, 3, 0), vectors(columns, 6, 1)
    expected = references.anchors_to_texts_kl(student, teacher, temperature)
    assert_equal(SimilarityKL(temperature)(student, teacher), expected, [*student, *teacher])


def in_blocks(student: Tensor, teacher: Tensor, block: int) -> tuple[Tensor, list[Tensor]]:
    """Return the loss and its gradients where so many texts are compared at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "TEXTS_AT_ONCE", block)
        loss = distillation.batch_similarity_kl(student, teacher, 0.1)
        return loss, list(torch.autograd.grad(loss, [student, teacher]))


@settings(deadline=None)
@given(rows=st.integers(2, 23), block=st.integers(1, 9))
def test_texts_compared_in_blocks_give_what_they_give_together(rows: int, block: int) -> None:
    (student,), (teacher,) = vectors(1, 3, 0, rows), vectors(1, 6, 1, rows)
    got, together = in_blocks(student, teacher, block), in_blocks(student, teacher, rows)
    torch.testing.assert_close(got[0], together[0], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(got[1], together[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("rows", "block"), [(2, 1), (7, 7), (9, 4), (23, 9), (23, 1)])
def test_texts_compared_in_blocks_are_compared_with_all_others(rows: int, block: int) -> None:
    (student,), (teacher,) = vectors(1, 3, 0, rows), vectors(1, 6, 1, rows)
    expected = references.all_to_all_kl(list(student), list(teacher), 0.1)
    loss, grads = in_blocks(student, teacher, block)
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-9)
    known = list(torch.autograd.grad(expected, [student, teacher]))
    torch.testing.assert_close(grads, known, rtol=1e-6, atol=1e-9)


def test_what_a_large_batch_keeps_does_not_grow_with_its_square() -> None:
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    rows = 3 * distillation.TEXTS_AT_ONCE
    (student,), (teacher,) = vectors(1, 4, 0, rows), vectors(1, 4, 1, rows)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        distillation.batch_similarity_kl(student, teacher, 0.1)
    assert max(kept) <= 4 * rows


def test_similarity_kl_of_one_column_leaves_the_diagonal_out() -> None:
    student, teacher = vectors(1, 3, 0), vectors(1, 6, 1)
    expected = references.all_to_all_kl(list(student[0]), list(teacher[0]), 0.05)
    assert_equal(SimilarityKL()(student, teacher), expected, [*student, *teacher])


@pytest.mark.parametrize("columns", [1, 2])
def test_similarity_kl_of_one_row_is_zero(columns: int) -> None:
    student = vectors(columns, 3, 0, rows=1)
    loss = SimilarityKL()(student, vectors(columns, 6, 1, rows=1))
    loss.backward()
    assert loss.item() == 0


def test_similarity_kl_sees_nothing_of_length_and_coordinate_kl_nearly_nothing_of_unit_vectors() -> None:
    student, teacher = vectors(2, 64, 0), vectors(2, 64, 1)
    short = [F.normalize(column, dim=-1) for column in student]
    torch.testing.assert_close(SimilarityKL()(short, teacher), SimilarityKL()(student, teacher))
    short_teacher = [F.normalize(column, dim=-1) for column in teacher]
    assert CoordinateKL()(short, short_teacher) < 0.05 * CoordinateKL()(student, teacher)


def numpy_pca(vectors: np.ndarray, k: int) -> np.ndarray:
    """X U S of the first k singular vectors of softmax(XᵀX / √D), the largest entry of each made positive."""
    scores = vectors.T @ vectors / np.sqrt(vectors.shape[1])
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    left, strength, _ = np.linalg.svd(powers / powers.sum(axis=1, keepdims=True))
    for column in left.T:
        column *= np.sign(column[np.argmax(np.abs(column))])
    return vectors @ (left[:, :k] * strength[:k])


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize(("temperature", "mse_weight"), [(1.0, 1.0), (0.5, 1.0), (0.0, 2.0), (2.0, 0.0)])
def test_pca_target(temperature: float, mse_weight: float, columns: int) -> None:
    full = vectors(columns, 6, 2)
    cut = [column.detach()[:, :3].clone().requires_grad_() for column in full]
    texts = np.concatenate([column.detach().numpy() for column in full])
    target = torch.from_numpy(numpy_pca(texts, 3))
    stacked = torch.cat(cut)
    expected = mse_weight * ((stacked - target) ** 2).sum() / stacked.numel()
    if temperature:
        expected = expected + references.coordinate_kl([stacked], [target], temperature, temperature)
    assert_equal(PcaTarget(temperature, mse_weight, exact=True)(cut, full), expected, cut)


def test_no_gradient_flows_through_the_pca() -> None:
    full = vectors(1, 6, 2)
    cut = vectors(1, 3, 3)
    PcaTarget()(cut, full).backward()
    assert full[0].grad is None
    assert cut[0].grad is not None


def test_the_low_rank_pca_has_the_signs_and_nearly_the_values_of_the_exact_one() -> None:
    scales = torch.linspace(0.1, 1.0, 8, dtype=torch.float64)  # singular values that lie apart
    full = vectors(1, 8, 4)[0].detach() * scales
    exact = pca_compress(full, 3, exact=True)
    for seed in range(5):
        torch.manual_seed(seed)
        assert (pca_compress(full, 3) - exact).norm() < 0.05 * exact.norm()


def test_pca_target_works_under_autocast() -> None:
    full = [column.detach().float() for column in vectors(2, 6, 2)]
    cut = [column[:, :3].requires_grad_() for column in full]
    plain = PcaTarget(exact=True)(cut, full)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = PcaTarget(exact=True)(cut, full)
    torch.testing.assert_close(mixed, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changed", "default"),
    [
        (CoordinateKL(0.9), CoordinateKL()),
        (CoordinateKL(0.9, in_softmax=False), CoordinateKL(0.9)),
        (CoordinateKL(0.9, times_temperature=True), CoordinateKL(0.9)),
        (SimilarityKL(0.06), SimilarityKL()),
        (PcaTarget(0.9, exact=True), PcaTarget(exact=True)),
        (PcaTarget(mse_weight=0.9, exact=True), PcaTarget(exact=True)),
    ],
    ids=repr,
)
def test_every_option_changes_the_loss(changed: PcaTarget, default: PcaTarget) -> None:
    student, teacher = vectors(2, 4, 0), vectors(2, 4, 1)
    first, second = changed(student, teacher), default(student, teacher)
    assert abs(first - second) > 1e-3 * second


@pytest.mark.parametrize("kind", [CoordinateKL, SimilarityKL])
def test_a_temperature_must_be_above_zero(kind: type) -> None:
    with pytest.raises(UserError, match="temperature is 0: expected a number above 0"):
        kind(temperature=0)


@pytest.mark.parametrize("columns", [2, 3])
def test_similarity_kl_of_all_pairs_sees_the_columns_as_one(columns: int) -> None:
    student, teacher = vectors(columns, 3, 0), vectors(columns, 6, 1)
    expected = SimilarityKL(0.5)([torch.cat(student)], [torch.cat(teacher)])
    assert_equal(SimilarityKL(0.5, all_pairs=True)(student, teacher), expected, [*student, *teacher])
