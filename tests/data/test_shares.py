"""Whose turn it is: every share is kept at any point, whatever the shares."""

from __future__ import annotations

import math
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka2d.data.shares import fixed_shares, temperature_shares, turns
from matryoshka2d.errors import UserError

WEIGHTS = st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(1, 400))
def test_after_any_number_of_turns_each_has_had_its_share_to_within_one(
    weights: list[float], number: int
) -> None:
    shares = fixed_shares(
        {str(i): weight for i, weight in enumerate(weights)}, list(map(str, range(len(weights))))
    )
    had = [0] * len(shares)
    for turn, place in enumerate(islice(turns(shares), number), start=1):
        had[place] += 1
        assert all(abs(count - turn * share) < 1 + 1e-6 for count, share in zip(had, shares, strict=True))


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=8), st.floats(0.2, 50))
def test_temperature_is_the_formula(rows: list[int], temperature: float) -> None:
    shares = temperature_shares(rows, temperature)
    assert math.isclose(sum(shares), 1)
    for count, share in zip(rows, shares, strict=True):
        power = math.log(count / rows[0]) / temperature
        assert share == 0 or math.isclose(math.log(share / shares[0]), power, abs_tol=1e-6)


def test_a_high_temperature_is_even_and_one_is_by_the_rows() -> None:
    assert temperature_shares([300, 100]) == [0.75, 0.25]
    assert temperature_shares([10**9, 1], 1e6) == pytest.approx([0.5, 0.5], abs=1e-4)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"a": 1}, "mix_weights has none for 'b': name all of a, b"),
        ({"a": 1, "b": 1, "bb": 1}, "mix_weights names 'bb', but the data sets are a, b"),
        ({"a": 1, "b": 0}, "mix_weights of 'b' is 0: expected a number above 0"),
        ({"a": -2, "b": 1}, "'a' is -2"),
        ({"a": float("nan"), "b": 1}, "'a' is nan"),
        ({"a": float("inf"), "b": 1}, "'a' is inf"),
    ],
)
def test_wrong_weights_are_one_line(weights: dict[str, float], said: str) -> None:
    with pytest.raises(UserError) as caught:
        fixed_shares(weights, ["a", "b"])
    assert said in str(caught.value)
