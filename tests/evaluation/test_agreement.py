"""Agreement with a reference, against the plain way of computing each measure."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import agreement_grids, neighbor_recall, reference_cosine, similarity_agreement
from matryoshka2d.evaluation.agreement import _draw_pairs
from tests.evaluation.fakes import FakeExits, plain_cosine

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(30, 12)).astype(np.float32)
REFERENCE = (VECTORS + RANDOM.normal(size=(30, 12))).astype(np.float32)
ALL_PAIRS = [(i, j) for i in range(30) for j in range(i)]


def test_similarity_agreement_over_all_pairs_equals_scipy() -> None:
    gold = [plain_cosine(REFERENCE[i], REFERENCE[j], 12) for i, j in ALL_PAIRS]
    for dims in (3, 12):
        own = [plain_cosine(VECTORS[i], VECTORS[j], dims) for i, j in ALL_PAIRS]
        found = similarity_agreement(VECTORS, REFERENCE, [dims])
        np.testing.assert_allclose(found, [spearmanr(own, gold).statistic], atol=1e-9)


@pytest.mark.parametrize("texts", [2, 3, 30, 1000])
def test_pairs_are_distinct_and_in_range(texts: int) -> None:
    pairs = _draw_pairs(texts, 500, seed=1)
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs) == min(500, texts * (texts - 1) // 2)
    assert (pairs[:, 0] > pairs[:, 1]).all()
    assert pairs.min() >= 0
    assert pairs.max() < texts


def test_pairs_of_very_many_texts() -> None:
    pairs = _draw_pairs(10_000_000, 2000, seed=1)
    assert ((pairs[:, 0] > pairs[:, 1]) & (pairs[:, 1] >= 0) & (pairs[:, 0] < 10_000_000)).all()


def test_neighbor_recall_equals_the_plain_way() -> None:
    def neighbors(vectors: np.ndarray, row: int, dims: int) -> set[int]:
        others = [other for other in range(30) if other != row]
        return set(sorted(others, key=lambda o: -plain_cosine(vectors[row], vectors[o], dims))[:4])

    for dims in (3, 12):
        shared = [len(neighbors(VECTORS, row, dims) & neighbors(REFERENCE, row, 12)) / 4 for row in range(30)]
        assert neighbor_recall(VECTORS, REFERENCE, [dims], k=4)[0] == pytest.approx(np.mean(shared))


def test_reference_cosine_compares_the_same_width() -> None:
    expected = [
        np.mean([plain_cosine(a, b, d) for a, b in zip(VECTORS, REFERENCE, strict=True)]) for d in (3, 12)
    ]
    np.testing.assert_allclose(reference_cosine(VECTORS, REFERENCE, [3, 12]), expected, atol=1e-9)


def test_a_model_agrees_fully_with_itself_at_full_size() -> None:
    model, texts = FakeExits(), [f"text {i}" for i in range(40)]
    reference = model.exits(texts)[3]
    grids = agreement_grids(model, reference, texts, sizes="1,3x4,16", k=5, name="toy")
    assert list(grids) == ["similarity", "recall@5", "cosine"]
    for measure, grid in grids.items():
        assert grid.metric == measure
        assert grid.score("3x16", "texts") == pytest.approx(100.0)
        assert grid.mean("1x16") < 60.0
    assert grids["cosine"].mean("3x4") == pytest.approx(100.0)
    assert len(model.calls) == 2


def test_other_widths_and_cuts_have_no_cosine() -> None:
    model, texts = FakeExits(), [f"text {i}" for i in range(40)]
    narrow = model.exits(texts)[3][:, :5]
    assert list(agreement_grids(model, narrow, texts, sizes="3x8")) == ["similarity", "recall@10"]
    whole = model.exits(texts)[3]
    assert list(agreement_grids(model, whole, texts, sizes="3x8", cut="pca")) == ["similarity", "recall@10"]


def test_wrong_use() -> None:
    with pytest.raises(UserError, match="30 texts but 29 reference vectors"):
        similarity_agreement(VECTORS, REFERENCE[:29], [3])
    with pytest.raises(UserError, match="10 texts are too few: expected at least 11"):
        neighbor_recall(VECTORS[:10], REFERENCE[:10], [3])
    with pytest.raises(UserError, match="needs the same"):
        reference_cosine(VECTORS, REFERENCE[:, :5], [3])
