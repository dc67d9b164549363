"""Tests and intervals over seeds alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from matryoshka2d import UserError
from matryoshka2d_reproduction.comparisons import (
    holm,
    seed_interval,
    seed_spread,
    seed_tests,
    seeds_can_reject,
)


class TestSeeds:
    def test_three_seeds_can_reject_nothing(self) -> None:
        assert not seeds_can_reject(3)
        assert seed_tests(np.ones((3, 2)), np.zeros((3, 2))) is None

    def test_ten_seeds_can_even_over_many_sizes(self) -> None:
        random = np.random.default_rng(0)
        a, b = random.normal(size=(2, 12, 4))
        a += np.array([3, 3, 0, 0])
        got = seed_tests(a, b)
        assert got is not None
        expected = holm(np.array([stats.ttest_rel(a[:, i], b[:, i]).pvalue for i in range(4)]))
        np.testing.assert_allclose(got["t"], expected)
        assert (got["wilcoxon"][:2] < 0.05).all()
        assert (got["wilcoxon"][2:] > 0.05).all()

    def test_no_difference_at_all_is_no_evidence(self) -> None:
        got = seed_tests(np.ones((6, 1)), np.ones((6, 1)))
        assert got is not None
        assert got["t"].tolist() == got["wilcoxon"].tolist() == [1.0]

    def test_shapes_must_be_the_same(self) -> None:
        with pytest.raises(UserError, match="the same seeds and sizes"):
            seed_tests(np.ones((6, 1)), np.ones((5, 1)))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
    def test_holm_is_never_below_and_keeps_the_order(self, values: list[float]) -> None:
        p = np.array(values)
        corrected = holm(p)
        assert (corrected >= p).all()
        assert (corrected <= 1).all()
        assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()
        assert corrected.min() == pytest.approx(min(1.0, p.min() * len(p)))

    def test_spread_over_seeds(self) -> None:
        assert seed_spread(np.array([[1.0], [3.0]])).tolist() == [np.sqrt(2)]
        assert np.isnan(seed_spread(np.ones((1, 2)))).all()


@pytest.mark.parametrize("shapes", [((3, 2), (2, 2)), ((1, 2), (1, 2))])
def test_an_interval_needs_two_seeds_of_both(
    shapes: tuple[tuple[int, int], ...],
) -> None:
    with pytest.raises(UserError, match="expected the same two or more seeds"):
        seed_interval(*map(np.zeros, shapes))
