"""What counts as agreement, and what does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.errors import UserError
from matryoshka2d.export.check import TOLERANCES, Agreement, agreement, refuse_unless_equal
from matryoshka2d.size import Size


@given(seed=st.integers(0, 1000), rows=st.integers(1, 9), dims=st.integers(1, 32))
def test_it_is_what_numpy_says(seed: int, rows: int, dims: int) -> None:
    left, right = np.random.default_rng(seed).standard_normal((2, rows, dims))
    found = agreement(left, right)
    cosines = [
        float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) for a, b in zip(left, right, strict=True)
    ]
    assert found.cosine == pytest.approx(min(cosines))
    assert found.mean_cosine == pytest.approx(np.mean(cosines))
    assert found.difference == pytest.approx(np.abs(left - right).max())
    assert found.texts == rows


def test_a_text_alone_is_compared_with_itself_beside_others() -> None:
    beside = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    alone = np.array([[1.0, 0.0], [0.8, 0.6]])
    found = agreement(beside, beside, alone)
    assert found.alone == pytest.approx(0.96)
    assert "alone and beside others 0.960000" in str(found)
    assert found.to_dict()["smallest cosine alone and beside others"] == found.alone
    assert not any(found.within(tolerance) for tolerance in TOLERANCES.values())
    assert all(agreement(beside, beside, beside).within(tolerance) for tolerance in TOLERANCES.values())
    assert "alone" not in str(agreement(beside, beside))


@pytest.mark.parametrize("wrong", [np.nan, 0.0])
def test_vectors_that_are_no_vectors_never_agree(wrong: float) -> None:
    found = agreement(np.full((2, 4), wrong), np.eye(4)[:2])
    for tolerance in TOLERANCES.values():
        assert not found.within(tolerance)


def test_another_shape_is_said() -> None:
    with pytest.raises(UserError, match=r"shape \(1, 3\), the source \(1, 4\)"):
        agreement(np.zeros((1, 3)), np.zeros((1, 4)))


@pytest.mark.parametrize(
    ("precision", "difference", "cosine", "kept"),
    [
        ("fp32", 9e-6, 1.0, True),
        ("fp32", 2e-5, 1.0, False),
        ("bf16", 0.1, 0.9991, True),
        ("bf16", 0.1, 0.9989, False),
        ("int8", 0.1, 0.951, True),
        ("int8", 0.1, 0.949, False),
    ],
)
def test_each_precision_has_its_bound(precision: str, difference: float, cosine: float, kept: bool) -> None:
    found = Agreement(16, difference, cosine, 1.0)
    if kept:
        refuse_unless_equal(Size(1, 8), found, precision)
    else:
        with pytest.raises(UserError, match=f"{precision} allows"):
            refuse_unless_equal(Size(1, 8), found, precision)
