"""A rotation learnt for prefixes: that it is one, that it helps, and that full width never notices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from matryoshka2d.evaluation.agreement import neighbor_recall
from matryoshka2d.losses.objectives.distillation import batch_similarity_kl
from matryoshka2d.training.rotation import Search, _loss, cayley, learn_rotation, neighbors

CHANCES = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float32)


@given(st.integers(1, 12), CHANCES)
@settings(max_examples=40, deadline=None)
def test_cayleys_map_makes_a_rotation_and_the_identity_of_nothing(
    width: int, chance: np.random.Generator
) -> None:
    turned = cayley(torch.from_numpy(chance.normal(size=(width, width)))).numpy()
    np.testing.assert_allclose(turned.T @ turned, np.eye(width), atol=1e-9)
    assert np.linalg.det(turned) == pytest.approx(1.0)
    np.testing.assert_array_equal(cayley(torch.zeros(width, width)).numpy(), np.eye(width))


def test_near_zero_cayleys_map_is_the_matrix_exponential() -> None:
    matrix = 1e-4 * np.random.default_rng(0).normal(size=(6, 6))
    skew = matrix - matrix.T
    np.testing.assert_allclose(cayley(torch.from_numpy(matrix)).numpy(), expm(-2 * skew), atol=1e-10)


@given(
    st.integers(1, 20),
    st.integers(1, 9),
    st.integers(1, 3),
    st.lists(st.integers(1, 10), max_size=4),
    st.lists(st.integers(1, 30), max_size=3).map(tuple),
    CHANCES,
)
@settings(max_examples=40, deadline=None)
def test_any_shape_gives_an_orthogonal_matrix_of_the_width(
    texts: int, width: int, depth: int, dims: list[int], ranks: tuple[int, ...], chance: np.random.Generator
) -> None:
    exits = {n: unit(chance.normal(size=(texts, width))) for n in range(1, depth + 1)}
    rotation = learn_rotation(exits, dims, Search(steps=3, texts=8, ranks=ranks))
    assert rotation.shape == (width, width)
    assert rotation.dtype == np.float32
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(width), atol=1e-5)
    if texts < 3 or not any(d < width for d in dims):
        np.testing.assert_array_equal(rotation, np.eye(width))


def test_prefixes_rank_more_as_the_full_size_does_at_every_depth() -> None:
    chance = np.random.default_rng(1)
    full = unit(chance.normal(size=(600, 24)) * np.linspace(0.2, 1.5, 24))
    exits = {1: unit(full + 0.1 * chance.normal(size=full.shape)), 2: full}
    rotation = learn_rotation(exits, [4, 8])
    for n, vectors in exits.items():
        before, after = (neighbor_recall(v, full, [4, 8]) for v in (vectors, vectors @ rotation))
        assert (after > before + 0.1).all(), (n, before, after)


def test_the_loss_is_the_logarithm_of_the_divergence_that_distillation_learns_from() -> None:
    chance = torch.Generator().manual_seed(0)
    turned, full = (torch.nn.functional.normalize(torch.randn(9, 6, generator=chance)) for _ in range(2))
    divergences = [batch_similarity_kl(turned[:, :d], full, 0.05) for d in (2, 5)]
    expected = torch.stack(divergences).log().mean()
    torch.testing.assert_close(_loss(turned, full, [2, 5], 0.05), expected, rtol=1e-5, atol=1e-5)


def test_full_width_and_the_way_between_depths_stay_as_they_were() -> None:
    chance = np.random.default_rng(2)
    exits = {n: unit(chance.normal(size=(200, 16))) for n in (1, 2)}
    rotation = learn_rotation(exits, [4], Search(steps=50, rate=0.05))
    assert np.abs(rotation - np.eye(16)).max() > 0.05
    for one, other in itertools.product(exits, exits):
        np.testing.assert_allclose(
            (exits[one] @ rotation) @ (exits[other] @ rotation).T, exits[one] @ exits[other].T, atol=1e-5
        )


def test_the_same_seed_gives_the_same_rotation_and_another_one_another() -> None:
    exits = {1: unit(np.random.default_rng(3).normal(size=(300, 8)))}
    search = Search(steps=20, texts=8)
    first, again, other = (learn_rotation(exits, [2], search, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_learning_touches_no_generator_but_its_own() -> None:
    exits = {1: unit(np.random.default_rng(4).normal(size=(50, 8)))}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.inference_mode():
        learn_rotation(exits, [2], Search(steps=2))
    torch.testing.assert_close(torch.rand(3), expected)


@given(st.integers(2, 30), st.lists(st.integers(1, 40), min_size=1, max_size=3), CHANCES)
@settings(max_examples=40, deadline=None)
def test_neighbors_are_those_of_a_full_sort(
    texts: int, ranks: list[int], chance: np.random.Generator
) -> None:
    vectors = unit(chance.normal(size=(texts, 5)))
    found = neighbors(torch.from_numpy(vectors), ranks).numpy()
    cosines = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(cosines, np.inf)
    order = np.argsort(-cosines, axis=1)
    expected = order[:, [0, *(min(rank, texts - 1) for rank in ranks)]]
    rows = np.arange(texts)[:, None]
    # Equal cosines may stand in any order.
    np.testing.assert_allclose(cosines[rows, found], cosines[rows, expected], atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], np.arange(texts))


def test_many_texts_are_compared_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.from_numpy(unit(np.random.default_rng(6).normal(size=(23, 6))))
    whole = neighbors(vectors, [1, 4])
    monkeypatch.setattr("matryoshka2d.training.rotation._AT_ONCE", 5)
    torch.testing.assert_close(neighbors(vectors, [1, 4]), whole)
