"""Statistics: equal to scipy on the repeated rows, and right as often as they say under simulation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from matryoshka2d import UserError
from matryoshka2d.evaluation.bootstrap import (
    Replicates,
    against_size,
    bootstrap_means,
    bootstrap_spearman,
    compare,
    score_intervals,
    weighted_spearman,
)


class TestWeightedSpearman:
    @settings(max_examples=40, deadline=None)
    @given(
        rows=st.integers(3, 40),
        columns=st.integers(1, 4),
        levels=st.sampled_from([2, 3, 7, 1000]),
        seed=st.integers(0, 2**16),
    )
    def test_it_is_scipys_on_the_repeated_rows(self, rows: int, columns: int, levels: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        values = random.integers(levels, size=(rows, columns)).astype(float)
        gold = random.integers(levels, size=rows).astype(float)
        drawn = random.integers(rows, size=(5, rows))
        counts = np.stack([np.bincount(one, minlength=rows) for one in drawn], axis=1).astype(float)
        got = weighted_spearman(values, gold, counts)
        for resample, one in enumerate(drawn):
            for column in range(columns):
                left, right = values[one, column], gold[one]
                if np.ptp(left) == 0 or np.ptp(right) == 0:
                    assert np.isnan(got[resample, column])
                    continue
                expected = stats.spearmanr(left, right).statistic
                assert got[resample, column] == pytest.approx(expected, abs=1e-12)

    def test_more_resamples_than_a_block_are_all_filled(self) -> None:
        random = np.random.default_rng(0)
        values, gold = random.normal(size=(50, 2)), random.normal(size=50)
        counts = np.ones((50, 101))
        expected = [stats.spearmanr(values[:, i], gold).statistic for i in range(2)]
        np.testing.assert_allclose(weighted_spearman(values, gold, counts), [expected] * 101, atol=1e-12)


def simulated(
    random: np.random.Generator,
    gold: np.ndarray,
    shared: np.ndarray,
    *,
    seeds: int = 3,
    sizes: int = 5,
    lead: float = 0.0,
    seed_spread: float = 0.0,
) -> np.ndarray:
    """Return cosines [seeds, pairs, sizes] of a method: what is hard for all, and noise of its own seeds."""
    pairs = len(gold)
    made = np.empty((seeds, pairs, sizes))
    for number in range(seeds):
        strength = 1 + lead + seed_spread * random.normal() * np.linspace(1.5, 0.5, sizes)
        noise = random.normal(size=(pairs, 1)) + random.normal(size=(pairs, sizes))
        made[number] = gold[:, None] * strength + shared + 0.5 * noise
    return made


def world(seed: int, pairs: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random, random.normal(size=pairs), random.normal(size=(pairs, 1))


class TestReplicates:
    def test_scores_are_those_of_all_pairs_and_the_mean_is_over_sets(self) -> None:
        random, gold, shared = world(0, 60)
        cosines = simulated(random, gold, shared, seeds=2)
        got = bootstrap_spearman(
            {"a": cosines, "b": cosines[:, :40]}, {"a": gold, "b": gold[:40]}, resamples=9
        )
        expected = 100 * stats.spearmanr(cosines[1, :, 3], gold).statistic
        assert got.scores["a"][1, 3] == pytest.approx(expected)
        scores, draws = got.of()
        np.testing.assert_allclose(scores, (got.scores["a"] + got.scores["b"]) / 2)
        np.testing.assert_allclose(draws, (got.draws["a"] + got.draws["b"]) / 2)
        assert draws.shape == (9, 2, 5)

    def test_methods_meet_the_same_resamples_whatever_else_is_measured(self) -> None:
        random, gold, shared = world(0, 60)
        cosines = simulated(random, gold, shared)
        alone = bootstrap_spearman({"a": cosines}, {"a": gold}, resamples=5)
        among = bootstrap_spearman({"b": cosines, "a": cosines}, {"a": gold, "b": gold}, resamples=5)
        np.testing.assert_array_equal(alone.draws["a"], among.draws["a"])
        assert not np.array_equal(among.draws["a"], among.draws["b"])

    def test_one_seed_may_be_given_without_its_axis(self) -> None:
        random, gold, shared = world(0, 60)
        cosines = simulated(random, gold, shared, seeds=1)
        one, same = (bootstrap_spearman({"a": c}, {"a": gold}, resamples=5) for c in (cosines, cosines[0]))
        np.testing.assert_array_equal(one.draws["a"], same.draws["a"])

    def test_means_of_queries_are_resampled_alike(self) -> None:
        random = np.random.default_rng(0)
        scores = random.random(size=(2, 300, 3))
        got = bootstrap_means({"scifact": scores}, resamples=400)
        np.testing.assert_allclose(got.scores["scifact"], 100 * scores.mean(axis=1))
        expected = 100 * scores.std(axis=1) / np.sqrt(300)
        np.testing.assert_allclose(got.draws["scifact"].std(axis=0), expected, rtol=0.15)

    @pytest.mark.parametrize(
        ("cosines", "gold", "resamples", "said"),
        [
            ({}, {}, 9, "at least one set"),
            ({"a": np.ones((2, 3))}, {"a": np.ones(2)}, 1, "two resamples"),
            ({"a": np.ones(3)}, {"a": np.ones(3)}, 9, r"\[seeds, pairs, sizes\]"),
            ({"a": np.ones((2, 3))}, {"a": np.ones(3)}, 9, "one gold score for each of 2 pairs"),
            ({"a": np.ones((2, 3))}, {"b": np.ones(2)}, 9, "set a"),
            ({"a": np.ones((2, 3)), "b": np.ones((2, 4))}, {"a": np.ones(2), "b": np.ones(2)}, 9, "differ"),
        ],
    )
    def test_shapes_that_do_not_fit_are_said(
        self, cosines: dict, gold: dict, resamples: int, said: str
    ) -> None:
        with pytest.raises(UserError, match=said):
            bootstrap_spearman(cosines, gold, resamples=resamples)


class TestIntervals:
    def test_a_method_against_itself_is_level_everywhere_with_no_width(self) -> None:
        random, gold, shared = world(0, 80)
        own = bootstrap_spearman({"a": simulated(random, gold, shared)}, {"a": gold}, resamples=50)
        got = compare(own, own)
        for values in (got.estimate, got.low, got.high, got.lower, got.upper, got.mean):
            np.testing.assert_allclose(values, 0, atol=1e-9)
        assert got.at_least_as_good().all()
        assert not got.better.any()
        assert not got.worse.any()

    def test_a_clear_lead_is_seen_from_both_sides(self) -> None:
        random, gold, shared = world(1, 800)
        good, bad = (
            bootstrap_spearman({"a": simulated(random, gold, shared, lead=lead)}, {"a": gold}, resamples=200)
            for lead in (0.5, 0.0)
        )
        lead, lag = compare(good, bad), compare(bad, good)
        assert lead.better.all()
        assert lag.worse.all()
        np.testing.assert_allclose(lead.estimate, -lag.estimate)
        assert not lag.at_least_as_good().any()

    def test_all_at_once_is_wider_than_each_alone(self) -> None:
        random, gold, shared = world(2, 200)
        own = bootstrap_spearman({"a": simulated(random, gold, shared)}, {"a": gold}, resamples=300)
        got = score_intervals(own)
        assert (got.lower < got.low).all()
        assert (got.high < got.upper).all()
        assert (got.low < got.estimate).all()
        assert got.mean[1] < got.mean[0] < got.mean[2]

    def test_one_seed_gives_the_interval_of_the_pairs_alone(self) -> None:
        random, gold, shared = world(3, 500)
        own = bootstrap_spearman({"a": simulated(random, gold, shared, seeds=1)}, {"a": gold}, resamples=500)
        got = score_intervals(own)
        expected = np.quantile(own.draws["a"][:, 0], [0.025, 0.975], axis=0)
        np.testing.assert_allclose([got.low, got.high], expected, atol=1.5)
        assert got.seeds == (1,)

    def test_seeds_that_differ_widen_the_interval(self) -> None:
        random, gold, shared = world(4, 300)
        widths = []
        for spread in (0.0, 2.0):
            cosines = simulated(random, gold, shared, seed_spread=spread)
            got = score_intervals(bootstrap_spearman({"a": cosines}, {"a": gold}, resamples=200))
            widths.append((got.high - got.low).mean())
        assert widths[1] > 1.3 * widths[0]

    def test_pairing_takes_away_what_is_hard_for_both(self) -> None:
        random, gold, shared = world(5, 300)
        a, b = (
            bootstrap_spearman({"a": simulated(random, gold, 3 * shared)}, {"a": gold}, resamples=200)
            for _ in range(2)
        )
        apart = bootstrap_spearman(
            {"a": simulated(random, gold, 3 * shared)}, {"a": gold}, resamples=200, seed=1
        )
        paired, unpaired = compare(a, b), compare(a, apart)
        assert (paired.high - paired.low).mean() < 0.7 * (unpaired.high - unpaired.low).mean()

    def test_methods_with_other_numbers_of_seeds_are_compared(self) -> None:
        random, gold, shared = world(6, 300)
        three, one = (
            bootstrap_spearman(
                {"a": simulated(random, gold, shared, seeds=seeds)}, {"a": gold}, resamples=100
            )
            for seeds in (3, 1)
        )
        assert compare(three, one).seeds == (3, 1)

    def test_sizes_against_the_full_one(self) -> None:
        random, gold, _ = world(7, 400)
        cosines = gold[:, None] + random.normal(size=(400, 3)) * [4.0, 1.0, 0.4]
        own = bootstrap_spearman({"a": cosines}, {"a": gold}, resamples=200)
        points, share = against_size(own), against_size(own, share=True)
        assert points.estimate[-1] == points.lower[-1] == points.upper[-1] == 0
        assert share.estimate[-1] == pytest.approx(100)
        assert (points.upper[:2] < 0).all()
        assert all(left < right for left, right in pairwise(share.estimate))

    def test_a_part_of_the_sizes(self) -> None:
        random, gold, shared = world(8, 100)
        own = bootstrap_spearman({"a": simulated(random, gold, shared)}, {"a": gold}, resamples=20)
        part = own.take([4, 0])
        np.testing.assert_array_equal(part.scores["a"], own.scores["a"][:, [4, 0]])
        assert part.draws["a"].shape == (20, 3, 2)
        with pytest.raises(UserError, match="expected the same of both"):
            compare(own, part)

    def test_everything_is_written_as_json_values(self) -> None:
        random, gold, shared = world(9, 100)
        own = bootstrap_spearman({"a": simulated(random, gold, shared, sizes=1)}, {"a": gold}, resamples=20)
        values = score_intervals(own).to_dict(["1x8"])
        assert values["seeds"] == [3]
        low, high, lower, upper = values["sizes"]["1x8"][1:]
        assert lower <= low <= values["sizes"]["1x8"][0] <= high <= upper


def rates(runs: int, *, pairs: int, seeds: int, resamples: int, spread: float) -> dict[str, float]:
    """Return how often a true null is rejected, and how often the truth is in an interval."""
    rejected, covered, covered_mean = 0, [], 0
    for run in range(runs):
        random, gold, shared = world(run, pairs)
        a, b = (
            bootstrap_spearman(
                {"x": simulated(random, gold, shared, seeds=seeds, seed_spread=spread)},
                {"x": gold},
                resamples=resamples,
                seed=run,
            )
            for _ in range(2)
        )
        got = compare(a, b, seed=run)
        rejected += bool(got.better.any() or got.worse.any())
        covered.append(((got.low <= 0) & (got.high >= 0)).mean())
        covered_mean += got.mean[1] <= 0 <= got.mean[2]
    return {
        "rejected": rejected / runs,
        "covered": float(np.mean(covered)),
        "covered mean": covered_mean / runs,
    }


class TestSimulation:
    def test_a_true_null_is_seldom_rejected_and_the_truth_is_usually_inside(self) -> None:
        got = rates(60, pairs=150, seeds=3, resamples=100, spread=0.02)
        assert got["rejected"] <= 0.15
        assert got["covered"] >= 0.90
        assert got["covered mean"] >= 0.87

    @pytest.mark.slow
    @pytest.mark.parametrize("spread", [0.0, 0.02, 0.05])
    @pytest.mark.parametrize("seeds", [1, 3, 6])
    def test_rates_are_those_that_are_promised(self, spread: float, seeds: int) -> None:
        if seeds == 1 and spread:
            pytest.skip("one seed says nothing about the spread of seeds")
        got = rates(400, pairs=300, seeds=seeds, resamples=300, spread=spread)
        assert 0.01 <= got["rejected"] <= 0.09
        assert 0.93 <= got["covered"] <= 0.985
        assert 0.92 <= got["covered mean"] <= 0.99

    def test_the_interval_of_a_score_covers_the_true_score(self) -> None:
        sizes, inside = 3, []
        random = np.random.default_rng(0)
        gold = random.normal(size=200_000)
        noise = random.normal(size=(200_000, sizes))
        truth = [100 * stats.spearmanr(gold + noise[:, i], gold).statistic for i in range(sizes)]
        for run in range(80):
            rows = random.integers(len(gold), size=200)
            cosines = {"x": (gold[:, None] + noise)[rows]}
            got = score_intervals(bootstrap_spearman(cosines, {"x": gold[rows]}, resamples=150, seed=run))
            inside.append((got.low <= truth) & (truth <= got.high))
        assert 0.88 <= np.mean(inside) <= 0.99


def test_replicates_name_their_sets() -> None:
    assert Replicates({"a": np.ones((1, 1))}, {"a": np.ones((2, 1, 1))}).sets == ("a",)
