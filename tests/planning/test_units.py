"""Amounts are read as people write them, and what cannot be meant is one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.errors import UserError
from matryoshka2d.planning import units
from matryoshka2d.planning.budget import Budget


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (units.read_seconds, "2ms", 0.002),
        (units.read_seconds, " 2 ms ", 0.002),
        (units.read_seconds, "0.5s", 0.5),
        (units.read_seconds, "300µs", 0.0003),
        (units.read_seconds, "300us", 0.0003),
        (units.read_bytes, "4GB", 4e9),
        (units.read_bytes, "4gb", 4e9),
        (units.read_bytes, "4 GiB", 4 * 2**30),
        (units.read_bytes, "1.5T", 1.5e12),
        (units.read_bytes, "512MiB", 2**29),
        (units.read_bytes, 4096, 4096.0),
        (units.read_count, "20M", 2e7),
        (units.read_count, "20 000 000".replace(" ", "_"), 2e7),
        (units.read_count, "1,500", 1500.0),
        (units.read_count, "1.5B", 1.5e9),
        (units.read_rate, "500/s", 500.0),
        (units.read_rate, "2k", 2000.0),
        (units.read_share, "97%", 0.97),
        (units.read_share, "97", 0.97),
        (units.read_share, "0.97", 0.97),
        (units.read_share, "97.5 %", 0.975),
        (units.read_share, "100%", 1.0),
        (units.read_share, "0.5%", 0.005),
        (units.read_share, "1%", 0.01),
    ],
)
def test_amounts_as_people_write_them(read, text, value) -> None:
    assert read(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (units.read_seconds, "2"),
        (units.read_seconds, "2 minutes"),
        (units.read_seconds, "fast"),
        (units.read_seconds, "-2ms"),
        (units.read_seconds, "0ms"),
        (units.read_seconds, ""),
        (units.read_seconds, True),
        (units.read_seconds, float("nan")),
        (units.read_bytes, "4"),
        (units.read_bytes, "4GX"),
        (units.read_count, "20 M documents"),
        (units.read_share, "150%"),
        (units.read_share, 97),
        (units.read_share, "0%"),
        (units.read_rate, "500/min"),
    ],
)
def test_what_cannot_be_meant_is_one_line_that_says_what_was_expected(read, text) -> None:
    with pytest.raises(UserError, match=r"a limit is .*: expected .*, as ") as raised:
        read(text, "a limit")
    assert "\n" not in str(raised.value)


@given(st.floats(1e-6, 1e4))
def test_a_time_that_is_shown_reads_as_the_same_time(seconds: float) -> None:
    assert units.read_seconds(units.show_seconds(seconds)) == pytest.approx(seconds, rel=0.006)


@given(st.floats(1, 1e15))
def test_bytes_that_are_shown_read_as_the_same_bytes(amount: float) -> None:
    assert units.read_bytes(units.show_bytes(amount)) == pytest.approx(amount, rel=0.006)


@given(st.text(max_size=8))
def test_no_text_does_anything_but_read_or_be_refused(text: str) -> None:
    for read in (units.read_seconds, units.read_bytes, units.read_count, units.read_rate, units.read_share):
        try:
            assert read(text) > 0
        except UserError as error:
            assert "\n" not in str(error)


def test_an_index_needs_its_documents() -> None:
    with pytest.raises(UserError, match="documents"):
        Budget(max_index="4GB")


def test_an_unknown_index_precision_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'int4'.*float32, int8, binary.*Did you mean 'int8'"):
        Budget(precision="int4")


def test_a_budget_says_what_it_limits() -> None:
    assert str(Budget()) == "no limits"
    budget = Budget(max_memory="600MB", min_throughput="500", min_quality="97%")
    assert str(budget) == "throughput ≥ 500/s, memory ≤ 600 MB, quality ≥ 97.0%"
    assert budget.to_dict() == {
        "max_memory": 6e8,
        "min_throughput": 500.0,
        "min_quality": 0.97,
        "precision": "float32",
    }


def test_a_budget_from_a_mapping_knows_its_limits() -> None:
    assert Budget.from_dict({"max_latency": "2ms"}) == Budget(max_latency=0.002)
    with pytest.raises(UserError, match=r"no 'max_latncy'.*Did you mean 'max_latency'"):
        Budget.from_dict({"max_latncy": "2ms"})
