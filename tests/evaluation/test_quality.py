"""Quality with intervals: the grid's scores, shares of the full size, and which of two sizes is better."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from matryoshka2d.encoder.quantization import Quantiser
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import RetrievalSet, StsSet, encode_sts, retrieval_grid, sts_grid
from matryoshka2d.evaluation.agreement import fidelity
from matryoshka2d.evaluation.index_precision import IndexedExits, kept_as
from matryoshka2d.evaluation.quality import Quality, encoded_quality, retrieval_quality, sts_quality
from matryoshka2d.evaluation.record import store_quality, stored_quality
from matryoshka2d.size import Size
from tests.evaluation.fakes import FakeExits

TEXTS = [f"text {i}" for i in range(60)]
SIZES = "1,3x4,16"


def toy_sts(pairs: int = 40, seed: int = 0) -> StsSet:
    random = np.random.default_rng(seed)
    left, right = random.permutation(TEXTS * 2)[:pairs], random.permutation(TEXTS * 2)[:pairs]
    return StsSet("toy", tuple(map(str, left)), tuple(map(str, right)), random.uniform(0, 5, pairs))


class Learned(FakeExits):
    """Exits that come nearer to fixed vectors with depth, so that deeper sizes are better."""

    def vector(self, text: str, layer: int):  # type: ignore[no-untyped-def]
        mixed = super().vector(text, 0) + (self.depth - layer) * 0.4 * super().vector(text, layer)
        return np.asarray(mixed / np.linalg.norm(mixed), dtype=np.float32)


def learned_sts(pairs: int = 300) -> StsSet:
    """Return pairs whose gold is the cosine of the full size, with noise."""
    random = np.random.default_rng(0)
    left = [f"l {i}" for i in range(pairs)]
    right = [f"r {i}" for i in range(pairs)]
    full = Learned().exits([*left, *right], layers=[3])[3]
    cosines = np.sum(full[:pairs] * full[pairs:], axis=1)
    return StsSet("learned", tuple(left), tuple(right), cosines + random.normal(0, 0.05, pairs))


def test_scores_are_those_of_the_grid_and_intervals_hold_them() -> None:
    quality = sts_quality(FakeExits(), [toy_sts()], sizes=SIZES, resamples=100)
    grid = sts_grid(FakeExits(), [toy_sts()], sizes=SIZES)
    assert quality.grid.scores == grid.scores
    assert quality.units == {"toy": 40}
    for size in quality.sizes:
        score = quality.score(size)
        assert score.low < score.estimate == grid.mean(size) < score.high


def test_the_full_size_is_measured_even_if_it_is_not_named() -> None:
    assert sts_quality(FakeExits(), [toy_sts()], sizes="1x4", resamples=50).sizes == (Size(1, 4), Size(3, 16))


def test_shares_are_those_of_the_full_size() -> None:
    quality = sts_quality(Learned(), [learned_sts()], sizes=SIZES, resamples=200)
    full = quality.score(Size(3, 16)).estimate
    assert quality.kept(Size(3, 16)) == pytest.approx((1, 1, 1))
    for size in quality.sizes[:-1]:
        kept = quality.kept(size)
        assert kept.estimate == pytest.approx(quality.score(size).estimate / full)
        assert kept.low < kept.estimate < kept.high < 1


def test_better_is_a_matter_of_pairs_and_never_goes_both_ways() -> None:
    few, many = (sts_quality(Learned(), [learned_sts(n)], sizes=SIZES, resamples=200) for n in (12, 300))
    assert many.better(Size(3, 16), Size(1, 4))
    assert not few.better(Size(3, 16), Size(3, 4))
    for quality in (few, many):
        for one in quality.sizes:
            assert not quality.better(one, one)
            for other in quality.sizes:
                assert not (quality.better(one, other) and quality.better(other, one))
                if quality.better(one, other):
                    assert quality.grid.mean(one) > quality.grid.mean(other)


def test_a_full_size_without_quality_has_no_shares() -> None:
    gold = -np.arange(40.0)
    named = {f"n {i}": [1.0, i / 40, *[0] * 14] for i in range(41)}
    pairs = StsSet("down", tuple(f"n {i}" for i in range(1, 41)), ("n 0",) * 40, gold)
    rising = StsSet("up", pairs.sentence1, pairs.sentence2, -gold)
    assert sts_quality(FakeExits(named=named), [pairs], resamples=20).kept(Size(3, 16)).estimate == 1
    shares = sts_quality(FakeExits(named=named), [rising], resamples=20)
    assert math.isnan(shares.kept(Size(3, 16)).low)


def test_retrieval_scores_are_those_of_the_grid() -> None:
    queries = {f"q{i}": f"query {i}" for i in range(12)}
    data = RetrievalSet(
        "toy",
        {f"d{i}": t for i, t in enumerate(TEXTS)},
        queries,
        {q: {f"d{i}": 1} for i, q in enumerate(queries)},
    )
    quality = retrieval_quality(FakeExits(), [data], sizes=SIZES, resamples=50)
    expected = retrieval_grid(FakeExits(), [data], sizes=SIZES)
    assert quality.grid.scores["toy"] == pytest.approx(expected.scores["toy"])
    assert (quality.of, quality.units, quality.grid.metric) == ("queries", {"toy": 12}, "ndcg@10")
    kept = retrieval_quality(FakeExits(), [data], sizes=SIZES, precision="binary", resamples=50)
    assert kept.grid.scores != quality.grid.scores


@pytest.mark.parametrize("measure", ["similarity", "recall"])
def test_fidelity_is_perfect_at_the_full_size_and_marked_as_what_it_is(measure: str) -> None:
    quality = fidelity(Learned(), TEXTS, measure=measure, sizes=SIZES, resamples=100)
    assert quality.fidelity
    assert quality.score(Size(3, 16)).estimate == pytest.approx(100)
    assert quality.kept(Size(3, 16)) == pytest.approx((1, 1, 1))
    assert quality.score(Size(1, 4)).estimate < 100
    assert quality.grid.metric == {"similarity": "similarity", "recall": "recall@10"}[measure]


def test_fidelity_is_the_rank_correlation_with_the_full_size() -> None:
    quality = fidelity(Learned(), TEXTS, sizes=SIZES, resamples=20, seed=3)
    exits = Learned().exits(TEXTS)
    pairs = np.random.default_rng(3).permutation(60).reshape(-1, 2)
    cosines = [np.sum(exits[n][pairs[:, 0]] * exits[n][pairs[:, 1]], axis=1) for n in (1, 3)]
    assert quality.score(Size(1, 16)).estimate == pytest.approx(100 * spearmanr(*cosines).statistic)


def test_fidelity_needs_texts_and_a_known_measure() -> None:
    with pytest.raises(UserError, match=r"2 different texts are too few .* at least 8"):
        fidelity(FakeExits(), ["a", "b", "b"])
    with pytest.raises(UserError, match="at least 11"):
        fidelity(FakeExits(), TEXTS[:9], measure="recall")
    with pytest.raises(UserError, match=r"'recal'.*Did you mean 'recall'"):
        fidelity(FakeExits(), TEXTS, measure="recal")


# --- how an index keeps vectors -----------------------------------------------------------------------


def test_float32_is_kept_as_it_is_int8_nearly_and_binary_by_sign() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    assert kept_as(vectors, "float32") is vectors
    assert np.abs(kept_as(vectors, "int8") - vectors).max() <= np.ptp(vectors, axis=0).max() / 255 / 2 + 1e-6
    signs = kept_as(vectors, "binary")
    assert set(np.unique(signs)) == {-1.0, 1.0}
    bits = np.packbits(vectors > 0, axis=1)
    hamming = np.unpackbits(bits[0] ^ bits[1]).sum()
    assert float(signs[0] @ signs[1]) / 16 == pytest.approx(1 - 2 * hamming / 16)
    constant = np.full((3, 2), 0.5, dtype=np.float32)
    assert kept_as(constant, "int8") == pytest.approx(constant)


def test_vectors_are_kept_as_the_quantiser_would_keep_them() -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 16)).astype(np.float32)
    for precision in ("int8", "binary"):
        quantiser = Quantiser.fit(vectors, precision)
        steps = np.ptp(vectors, axis=0) / 255 if precision == "int8" else 0
        apart = np.abs(kept_as(vectors, precision) - quantiser.decode(quantiser.encode(vectors)))
        assert (apart <= steps + 1e-6).all()


def test_quality_of_kept_vectors_is_held_against_the_full_size_as_float32() -> None:
    encoded = encode_sts(Learned(), [learned_sts()], sizes="1,3x4,16")
    plain, int8, binary = (
        encoded_quality(encoded, precision=p, resamples=50) for p in ("float32", "int8", "binary")
    )
    full = plain.sizes[-1]
    assert int8.kept(full).estimate == pytest.approx(1, abs=0.01)
    assert binary.kept(full).estimate == pytest.approx(
        binary.score(full).estimate / plain.score(full).estimate
    )
    assert binary.kept(full).estimate < 0.97
    seen = sts_grid(IndexedExits(Learned(), "binary"), [learned_sts()], sizes="1,3x4,16")
    assert binary.grid.scores["learned"] == pytest.approx(seen.scores["learned"])


# --- in the record of a model -------------------------------------------------------------------------


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    quality = sts_quality(
        Learned(), [learned_sts()], sizes=SIZES, resamples=50, details={"date": "2026-01-01"}
    )
    (tmp_path / "elastic.json").write_text('{"format": 1, "heads": [1], "sizes": ["1x4"]}')
    store_quality(tmp_path, [quality], "weights")
    text = (tmp_path / "elastic.json").read_text()
    record = json.loads(text)
    assert {key: record[key] for key in ("format", "heads", "sizes")} == {
        "format": 1,
        "heads": [1],
        "sizes": ["1x4"],
    }
    assert max(map(len, text.splitlines())) < 200
    read = stored_quality(record, "float32", "weights")
    assert read is not None
    assert read.to_dict() == quality.to_dict()
    for size in quality.sizes:
        assert read.kept(size) == pytest.approx(quality.kept(size), abs=1e-5)
        assert read.score(size) == pytest.approx(quality.score(size), abs=1e-3)
    assert stored_quality(record, "int8", "weights") is None
    assert stored_quality({}, "float32", "weights") is None


def test_precisions_stand_side_by_side_until_the_weights_change(tmp_path: Path) -> None:
    encoded = encode_sts(Learned(), [learned_sts(40)], sizes=SIZES)
    plain, binary = (encoded_quality(encoded, precision=p, resamples=20) for p in ("float32", "binary"))
    store_quality(tmp_path, [plain], "first")
    store_quality(tmp_path, [binary], "first")
    record = json.loads((tmp_path / "elastic.json").read_text())
    assert all(stored_quality(record, p, "first") is not None for p in ("float32", "binary"))
    with pytest.raises(UserError, match=r"of other weights.*evaluate --save"):
        stored_quality(record, "float32", "second")
    store_quality(tmp_path, [plain], "second")
    record = json.loads((tmp_path / "elastic.json").read_text())
    assert stored_quality(record, "binary", "second") is None


@pytest.mark.parametrize(
    "broken", [{"quality": 3}, {"quality": {"weights": "w", "by precision": {"float32": {"grid": 1}}}}]
)
def test_a_broken_record_is_one_line(broken: dict[str, object]) -> None:
    with pytest.raises(UserError, match="stored quality cannot be read") as raised:
        stored_quality(broken, "float32", "w")
    assert "\n" not in str(raised.value)


def test_a_record_that_is_not_json_is_left_alone(tmp_path: Path) -> None:
    quality = sts_quality(FakeExits(), [toy_sts()], sizes=SIZES, resamples=20)
    (tmp_path / "elastic.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a record"):
        store_quality(tmp_path, [quality], "w")
    assert (tmp_path / "elastic.json").read_text() == "{"
    with pytest.raises(UserError, match="not a folder"):
        store_quality(tmp_path / "none", [quality], "w")


def test_some_sizes_of_a_quality() -> None:
    quality = sts_quality(Learned(), [learned_sts(60)], sizes=SIZES, resamples=50)
    some = quality.only("1x4")
    assert some.sizes == (Size(1, 4), Size(3, 16))
    assert some.kept(Size(1, 4)) == quality.kept(Size(1, 4))
    assert some.better(Size(3, 16), Size(1, 4)) == quality.better(Size(3, 16), Size(1, 4))
    with pytest.raises(UserError, match="2x4 was not measured"):
        quality.only("2x4")
    assert isinstance(some, Quality)
