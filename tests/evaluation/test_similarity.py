"""Models are compared by their own similarity, and a model that says the same of everything has no score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import dot_score, euclidean_sim, manhattan_sim

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import (
    RetrievalSet,
    StsSet,
    agreement_grids,
    encode_sts,
    retrieval_grid,
    sts_grid,
)
from matryoshka2d.evaluation.agreement import fidelity
from matryoshka2d.evaluation.cosine import look_alike, pair_cosines
from matryoshka2d.evaluation.quality import labelled_qualities
from matryoshka2d.evaluation.similarity import Similarity
from matryoshka2d.size import Size
from tests import tiny
from tests.evaluation.fakes import FakeExits

FUNCTIONS = {"dot": dot_score, "euclidean": euclidean_sim, "manhattan": manhattan_sim}
WORDS = tiny.WORDS.split()
LEFT = tuple(f"{a} {b}" for a, b in zip(WORDS, WORDS[5:], strict=False))
RIGHT = tuple(f"the {a} in {b}" for a, b in zip(WORDS[3:], WORDS, strict=False))[: len(LEFT)]
PAIRS = StsSet("toy", LEFT, RIGHT, np.random.default_rng(0).normal(size=len(LEFT)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.sentence_model(tmp_path_factory.mktemp("similarity"), normalize=False)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("unit", [True, False])
def test_it_is_that_of_sentence_transformers(name: str, unit: bool) -> None:
    random = np.random.default_rng(0)
    queries, documents = random.normal(size=(2, 30, 12)).astype(np.float32)
    similarity, dims = Similarity(name, unit), [3, 12]
    for rows, position, found in similarity.of_blocks(queries, documents, dims):
        left, right = queries[rows, : dims[position]], documents[:, : dims[position]]
        if unit:
            left, right = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (left, right))
        expected = FUNCTIONS[name](left, right).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)
        pairs = np.stack([np.arange(30), np.arange(30) + 30], axis=1)
        aligned = similarity.of_pairs(np.concatenate([queries, documents]), pairs, dims)[rows, position]
        np.testing.assert_allclose(aligned, np.diag(expected), atol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sizes_are_compared_as_they_are_given_and_a_plain_model_as_it_compares(
    folder: str, name: str
) -> None:
    for kind in (ElasticEncoder, SentenceTransformer):
        model = kind(folder, device="cpu", similarity_fn_name=name)
        size = {"size": "4x32"} if kind is ElasticEncoder else {}
        left, right = (model.encode(list(side), **size) for side in (LEFT, RIGHT))
        expected = spearmanr(np.diag(FUNCTIONS[name](left, right).numpy()), PAIRS.gold).statistic
        grid = sts_grid(model, [PAIRS], sizes="4x32")
        assert grid.mean("4x32") == pytest.approx(100 * expected, abs=1e-6)
        assert grid.details["similarity"] == name
        assert "by its own similarity" in grid.details["notes"][0]
        assert ("unit length" in grid.details["notes"][0]) == (kind is ElasticEncoder)

        data = RetrievalSet(
            "toy",
            dict(enumerate_ids(RIGHT)),
            dict(enumerate_ids(LEFT)),
            {k: {k: 1} for k, _ in enumerate_ids(LEFT)},
        )
        first = retrieval_grid(model, [data], sizes="4x32", k=1, exclude_self=False)
        hits = np.argmax(FUNCTIONS[name](left, right).numpy(), axis=1) == np.arange(len(LEFT))
        assert first.mean("4x32") == pytest.approx(100 * hits.mean())
        assert first.details["similarity"] == name


def enumerate_ids(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(f"{i}", text) for i, text in enumerate(texts)]


def test_a_dot_product_of_given_lengths_is_not_a_cosine(folder: str) -> None:
    scores = {
        name: sts_grid(SentenceTransformer(folder, device="cpu", similarity_fn_name=name), [PAIRS]).mean(
            "4x32"
        )
        for name in ("cosine", "dot", "manhattan")
    }
    assert len(set(scores.values())) == 3
    assert "notes" not in sts_grid(ElasticEncoder(folder, device="cpu"), [PAIRS]).details


# --- what does not vary ---------------------------------------------------------------------------------


class Collapsed(FakeExits):
    """A model that gives every text the same vector up to rounding, at some exits."""

    def __init__(self, layers: tuple[int, ...] = (1, 2, 3), noise: float = 1e-7, **options: Any) -> None:
        super().__init__(**options)
        self.layers, self.noise = layers, noise

    def vector(self, text: str, layer: int) -> Any:
        own = super().vector(text, layer)
        if layer not in self.layers:
            return own
        same = np.linspace(-1, 1, self.width) + self.noise * own
        return np.asarray(same / np.linalg.norm(same), dtype=np.float32)


TEXTS = [f"text {i}" for i in range(40)]
TOY = StsSet("toy", tuple(TEXTS[:20]), tuple(TEXTS[20:]), np.arange(20.0))
FOUND = RetrievalSet("found", dict(enumerate_ids(tuple(TEXTS))), {"q": "a query"}, {"q": {"3": 1}})


@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-7, 1e-6])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_a_constant_has_no_score_and_json_says_null(noise: float, similarity: str) -> None:
    model = Collapsed(noise=noise)
    model.similarity_fn_name = similarity
    for metric in ("spearman", "pearson"):
        grid = sts_grid(model, [TOY], sizes="1,3x1,8,16", metric=metric)
        assert all(math.isnan(value) for value in grid.values().values())
        assert set(grid.to_dict()["grid"]["3x16"].values()) == {None}
        assert any("does not vary at 1x1, 1x8" in note for note in grid.details["notes"])
    found = retrieval_grid(model, [FOUND], sizes="1,3x8,16")
    assert all(math.isnan(value) for value in found.values().values())
    assert any("does not vary" in note for note in found.details["notes"])


def test_one_collapsed_exit_takes_no_other_with_it() -> None:
    model = Collapsed(layers=(1,))
    healthy = FakeExits()
    for task, sets in ((sts_grid, [TOY]), (retrieval_grid, [FOUND])):
        grid, other = (task(one, sets, sizes="1,3x8,16") for one in (model, healthy))
        assert [str(size) for size in grid.undefined()] == ["1x8", "1x16"]
        assert grid.score("3x8") == other.score("3x8")
    for sets in ([TOY], [FOUND]):
        for precision, quality in labelled_qualities(model, sets, sizes="1,3x8,16").items():
            assert math.isnan(quality.score(Size(1, 8)).estimate), precision
            assert math.isfinite(quality.score(Size(3, 8)).low)
    agreed = fidelity(model, TEXTS, sizes="1,3x8,16", resamples=20)
    assert math.isnan(agreed.score(Size(1, 16)).estimate)
    assert agreed.kept(Size(3, 16)) == pytest.approx((1, 1, 1))
    assert not agreed.better(Size(3, 8), Size(1, 8))


@pytest.mark.parametrize("measure", ["similarity", "recall"])
def test_nothing_agrees_with_a_full_size_to_which_all_texts_look_alike(measure: str) -> None:
    model = Collapsed()
    with pytest.raises(UserError, match="all 40 texts look alike to the full size"):
        fidelity(model, TEXTS, measure=measure, resamples=20)
    with pytest.raises(UserError, match="look alike"):
        agreement_grids(FakeExits(), model.exits(TEXTS)[3], TEXTS)


def test_alike_is_told_from_near() -> None:
    random = np.random.default_rng(0)
    base, noise = np.ones(16), random.normal(size=(30, 16))
    pairs = np.stack([np.arange(29), np.arange(1, 30)], axis=1)
    near = (base + 1e-3 * noise).astype(np.float32)
    assert not look_alike(near)
    assert len(np.unique(pair_cosines(near, pairs, [16]))) == 29
    assert look_alike((base + 1e-7 * noise).astype(np.float32))
    assert pair_cosines((base + 1e-7 * noise).astype(np.float32), pairs, [16]).tolist() == [[1.0]] * 29
    # Equal sentences tie exactly, whatever the last bit of their length.
    many = np.repeat(random.normal(size=(50, 384)).astype(np.float32), 2, axis=0)
    twins = np.arange(100).reshape(-1, 2)
    assert set(pair_cosines(many, twins, [1, 7, 384]).ravel()) == {1.0}


class Broken(FakeExits):
    """A model whose second exit is not finite for one text."""

    def vector(self, text: str, layer: int) -> Any:
        found = super().vector(text, layer)
        return np.full_like(found, np.nan) if layer == 2 and text == "text 7" else found


def test_vectors_that_are_not_finite_are_refused_wherever_they_are_measured() -> None:
    for measure in (
        lambda: encode_sts(Broken(), [TOY]),
        lambda: retrieval_grid(Broken(), [FOUND]),
        lambda: fidelity(Broken(), TEXTS),
        lambda: agreement_grids(Broken(), FakeExits().exits(TEXTS)[3], TEXTS),
    ):
        with pytest.raises(UserError, match="the text 'text 7' has a vector that holds NaN or infinity"):
            measure()
    assert sts_grid(Broken(), [TOY], sizes="1,3x8").undefined() == ()
