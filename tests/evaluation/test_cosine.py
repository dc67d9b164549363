"""Cosines at many widths, and the choice of the k best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import pair_cosines, turn
from matryoshka2d.evaluation.cosine import block_cosines, top_k
from matryoshka2d.evaluation.exits import principal_axes
from tests.evaluation.fakes import plain_cosine


@given(
    seed=st.integers(0, 2**32 - 1),
    texts=st.integers(2, 12),
    dims=st.sets(st.integers(1, 24), min_size=1, max_size=6).map(sorted),
)
def test_pair_and_block_cosines_equal_cut_then_normalize(seed: int, texts: int, dims: list[int]) -> None:
    vectors = np.random.default_rng(seed).normal(size=(texts, 24)).astype(np.float32)
    pairs = np.array([(i, j) for i in range(texts) for j in range(texts)])
    expected = [[plain_cosine(vectors[i], vectors[j], d) for d in dims] for i, j in pairs]
    np.testing.assert_allclose(pair_cosines(vectors, pairs, dims), expected, atol=1e-12)
    for rows, position, cosines in block_cosines(vectors, vectors, dims):
        assert rows == slice(0, texts)
        np.testing.assert_allclose(cosines.ravel(), np.array(expected)[:, position], atol=1e-11)


def test_equal_texts_have_a_cosine_of_exactly_one() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32)
    same = np.stack([np.arange(50)] * 2, axis=1)
    assert (pair_cosines(vectors, same, [8, 100, 384]) == 1.0).all()


def test_a_cut_of_zeros_has_cosine_zero() -> None:
    vectors = np.array([[0.0, 1.0], [1.0, 1.0]])
    assert pair_cosines(vectors, np.array([[0, 1]]), [1, 2])[0, 0] == 0.0


def test_blocks_cover_all_pairs_and_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(11, 8))
    pairs = np.array([(i, j) for i in range(11) for j in range(11)])
    whole = pair_cosines(vectors, pairs, [4, 8])
    monkeypatch.setattr("matryoshka2d.evaluation.cosine._PAIRS_A_BLOCK", 7)
    monkeypatch.setattr("matryoshka2d.evaluation.cosine._CELLS_A_BLOCK", 30)
    np.testing.assert_array_equal(pair_cosines(vectors, pairs, [4, 8]), whole)
    seen = np.zeros((2, 11, 11))
    for rows, position, cosines in block_cosines(vectors, vectors, [4, 8]):
        assert rows.stop - rows.start <= 2
        seen[position, rows] = cosines
    np.testing.assert_allclose(seen.reshape(2, -1).T, whole, atol=1e-11)


@given(
    scores=st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=5),
    k=st.integers(0, 9),
)
def test_top_k_is_a_stable_sort(scores: list[list[int]], k: int) -> None:
    table = np.array(scores, dtype=np.float64)
    np.testing.assert_array_equal(top_k(table, k), np.argsort(-table, axis=1, kind="stable")[:, :k])


def test_every_cut_leaves_full_width_as_it_is() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    pairs = np.array([(i, j) for i in range(9) for j in range(i)])
    whole = pair_cosines(vectors, pairs, [6])
    for cut in ("prefix", "pca", "random"):
        turned = turn(vectors, cut, seed=3)
        assert turned.dtype == np.float32
        np.testing.assert_allclose(pair_cosines(turned, pairs, [6]), whole, atol=1e-6)


def test_pca_finds_the_strong_directions_first() -> None:
    random = np.random.default_rng(0)
    strengths = np.array([0.1, 3.0, 0.5, 1.0])
    vectors = random.normal(size=(2000, 4)) * strengths + 5.0
    spread = turn(vectors, "pca").std(axis=0)
    np.testing.assert_allclose(spread, [3.0, 1.0, 0.5, 0.1], rtol=0.1)
    axes = principal_axes(vectors)
    np.testing.assert_allclose(axes.T @ axes, np.eye(4), atol=1e-12)


def test_pca_may_be_fitted_elsewhere() -> None:
    fit = np.array([[0.0, 3.0], [0.0, -3.0], [1.0, 0.0], [-1.0, 0.0]])
    turned = turn(np.array([[2.0, 1.0]]), "pca", fit=fit)
    np.testing.assert_allclose(np.abs(turned), [[1.0, 2.0]])


def test_random_coordinates_depend_on_the_seed_only() -> None:
    vectors = np.arange(20.0)[None]
    assert turn(vectors, "random", seed=1).tolist() == turn(vectors, "random", seed=1).tolist()
    assert turn(vectors, "random", seed=1).tolist() != turn(vectors, "random", seed=2).tolist()
    assert sorted(turn(vectors, "random", seed=1)[0]) == list(range(20))


def test_an_unknown_cut() -> None:
    with pytest.raises(UserError, match=r"expected one of prefix, pca, random\. Did you mean 'prefix'"):
        turn(np.ones((1, 1)), "prefx")
