"""The one-pass grid equals scipy on vectors that are cut and normalized one size at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import PlainExits, StsSet, encode_sts, read_sts, sts_grid
from matryoshka2d.evaluation.cosine import spearman
from matryoshka2d.size import Size, parse_sizes
from tests.evaluation.fakes import FakeExits, FakeSentenceTransformer, plain_cosine


def random_set(name: str, pairs: int, seed: int) -> StsSet:
    """Return pairs over few texts, so that texts repeat and gold scores tie."""
    random = np.random.default_rng(seed)
    left, right = (tuple(f"text {i}" for i in random.integers(0, 12, pairs)) for _ in range(2))
    gold = random.integers(0, 4, pairs).astype(float)
    gold[:2] = [0.0, 5.0]
    return StsSet(name, left, right, gold)


def cosines_of(model: FakeExits, pairs: StsSet, size: Size) -> list[float]:
    return [
        plain_cosine(model.vector(a, size.layers), model.vector(b, size.layers), size.dims)
        for a, b in zip(pairs.sentence1, pairs.sentence2, strict=True)
    ]


@pytest.mark.filterwarnings("ignore:An input array is constant")
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    counts=st.lists(st.integers(3, 40), min_size=1, max_size=3),
    layers=st.sets(st.integers(1, 3), min_size=1),
    dims=st.sets(st.integers(1, 16), min_size=1, max_size=5),
)
def test_every_cell_equals_scipy(seed: int, counts: list[int], layers: set[int], dims: set[int]) -> None:
    model = FakeExits(depth=3, width=16)
    sets = [random_set(f"set{i}", count, seed + i) for i, count in enumerate(counts)]
    sizes = [Size(n, d) for n in layers for d in dims]
    encoded = encode_sts(model, sets, sizes=sizes)
    references = {"spearman": spearmanr, "pearson": pearsonr}
    for metric, reference in references.items():
        grid = encoded.grid(metric=metric)
        assert set(grid.sizes) == set(sizes)
        for pairs in sets:
            for size in sizes:
                cosines = cosines_of(model, pairs, size)
                # Rounded, because plain arithmetic does not give equal texts exactly equal cosines.
                expected = 100 * reference(np.round(cosines, 9), pairs.gold).statistic
                np.testing.assert_allclose(grid.score(size, pairs.name), expected, atol=1e-5)


def test_ties_and_constants_as_in_scipy() -> None:
    values = np.array([[1.0, 7.0], [1.0, 7.0], [2.0, 7.0], [3.0, 7.0]])
    gold = np.array([1.0, 2.0, 2.0, 5.0])
    correlations = spearman(values, gold)
    assert correlations[0] == pytest.approx(spearmanr(values[:, 0], gold).statistic, abs=1e-15)
    assert np.isnan(correlations[1])


def test_every_distinct_text_is_encoded_once_in_one_call() -> None:
    model = FakeExits()
    sets = [random_set("a", 30, 0), random_set("b", 30, 1)]
    sts_grid(model, sets, sizes="1-3x8", prompt="query: ")
    (texts,) = model.calls
    assert sorted(texts) == sorted({t for s in sets for t in (*s.sentence1, *s.sentence2)})
    assert model.heard == ["query: "]


def test_cosines_of_every_pair() -> None:
    model = FakeExits()
    sets = [random_set("a", 30, 0), random_set("b", 20, 1)]
    encoded = encode_sts(model, sets, sizes="1,3x4,16")
    cosines = encoded.cosines()
    assert cosines["a"].shape == (30, 4)
    for column, size in enumerate(encoded.sizes):
        np.testing.assert_allclose(cosines["b"][:, column], cosines_of(model, sets[1], size), atol=1e-7)
    np.testing.assert_array_equal(encoded.cosines(parse_sizes("3x4"))["a"][:, 0], cosines["a"][:, 2])


def test_pca_is_fitted_on_the_texts_or_on_those_named() -> None:
    model = FakeExits()
    sets = [random_set("a", 40, 0)]
    own = encode_sts(model, sets, sizes="2x4,16")
    other = encode_sts(model, sets, sizes="2x4,16", fit_texts=[f"other {i}" for i in range(50)])
    assert len(model.calls) == 2
    assert own.grid(cut="prefix").scores == other.grid(cut="prefix").scores
    assert own.grid(cut="pca").mean("2x4") != other.grid(cut="pca").mean("2x4")
    for encoded in (own, other):
        grid = encoded.grid(cut="pca")
        assert grid.cut == "pca"
        # Equal texts may come out a hair apart after a rotation in float32; ranks of near ties move.
        assert grid.mean("2x16") == pytest.approx(encoded.grid().mean("2x16"), abs=0.5)


def test_what_is_kept_beside_the_numbers() -> None:
    grid = encode_sts(FakeExits(), [random_set("a", 9, 0)]).grid(name="toy", details={"split": "test"})
    assert grid.details == {"pairs": {"a": 9}, "split": "test"}
    assert (grid.name, grid.metric, grid.cut) == ("toy", "spearman", "prefix")
    assert len(grid.sizes) == 3 * 2


def test_a_plain_sentence_transformer_has_its_full_depth_only() -> None:
    model = FakeSentenceTransformer()
    grid = sts_grid(model, [random_set("a", 20, 0)])
    assert [str(size) for size in grid.sizes] == ["1x8", "1x16"]
    assert grid.scores == sts_grid(model.fake, [random_set("a", 20, 0)]).scores
    with pytest.raises(UserError, match="has no exit 1"):
        sts_grid(PlainExits(model, depth=6), [random_set("a", 20, 0)], sizes="1x8")


def test_wrong_use() -> None:
    sets = [random_set("a", 9, 0)]
    with pytest.raises(UserError, match="too deep"):
        sts_grid(FakeExits(), sets, sizes="4x8")
    model = FakeExits()
    with pytest.raises(UserError, match="Did you mean 'spearman'"):
        sts_grid(model, sets, metric="spearmen")
    with pytest.raises(UserError, match="cut 'best' is not known"):
        sts_grid(model, sets, cut="best")
    assert model.calls == [], "found out before the long work"
    with pytest.raises(UserError, match="cannot evaluate a str"):
        sts_grid("a model", sets)
    with pytest.raises(UserError, match="expected as many of each"):
        StsSet("a", ("x",), ("y", "z"), np.array([1.0]))


def test_the_real_encoder_at_a_size_is_what_the_grid_measures(minilm: str) -> None:
    encoder = ElasticEncoder(minilm, device="cpu")
    sentences = ("a cat sat on the mat", "he plays a guitar", "rain is falling", "two dogs run")
    pairs = StsSet("toy", sentences, sentences[::-1], np.array([1.0, 4.0, 3.0, 2.0]))
    encoded = encode_sts(encoder, [pairs], sizes="3x32")
    vectors = encoder.encode(list(sentences), size="3x32")
    np.testing.assert_allclose(
        encoded.cosines()["toy"][:, 0], (vectors * vectors[::-1]).sum(axis=1), atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.shared_data
def test_minilm_on_the_seven_sets(minilm: str, sts_folder: Path) -> None:
    encoder = ElasticEncoder(minilm, device="cpu")
    grid = sts_grid(encoder, read_sts(sts_folder), sizes="6x8,32,128,384 1x384")
    expected = {"6x384": 78.87, "6x128": 77.79, "6x32": 73.66, "6x8": 61.07, "1x384": 57.99}
    assert {str(size): grid.mean(size) for size in grid.sizes} == pytest.approx(expected, abs=0.05)
