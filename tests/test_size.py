"""Sizes and grids of sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.errors import UserError
from matryoshka2d.size import Size, default_dims, default_sizes, parse_sizes

numbers = st.integers(1, 2000)


@given(numbers, numbers)
def test_a_size_survives_text(layers: int, dims: int) -> None:
    size = Size(layers, dims)
    assert Size.parse(str(size)) == size
    assert Size.parse(f" {layers} X {dims} ") == size


@given(st.sets(st.integers(1, 24), min_size=1), st.sets(st.integers(1, 1024), min_size=1))
def test_a_grid_is_the_product_of_its_sides(layers: set[int], dims: set[int]) -> None:
    text = f"{','.join(map(str, layers))}x{','.join(map(str, dims))}"
    if len(layers) == len(dims) == 1:
        text = text + " " + text
    assert parse_sizes(text) == tuple(sorted(Size(n, d) for n in layers for d in dims))


@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 4))
def test_a_range_counts_up_by_its_step(first: int, more: int, step: int) -> None:
    found = parse_sizes(f"{first}-{first + more}:{step}x8")
    assert [size.layers for size in found] == list(range(first, first + more + 1, step))


def test_lists_of_sizes_may_be_separated_by_commas_or_spaces() -> None:
    diagonal = (Size(1, 32), Size(2, 64))
    assert (
        parse_sizes("1x32,2x64") == parse_sizes("2x64 1x32") == parse_sizes(["1x32", Size(2, 64)]) == diagonal
    )


@pytest.mark.parametrize(
    "text", ["", "6", "x", "6x", "x8", "axb", "6x8x2", "6x-8", "0x8", "6x0", "6-1x8", "1.5x8"]
)
def test_what_is_no_size_is_said_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_sizes(text)
    assert "\n" not in str(raised.value)


def test_a_size_the_model_lacks_is_said_with_what_it_has() -> None:
    with pytest.raises(UserError, match="7x8 is too deep: the model has 6 layers"):
        Size(7, 8).check(6, 384)
    with pytest.raises(UserError, match="6x385 is too wide: the model has 384 dims"):
        Size(6, 385).check(6, 384)
    assert Size(6, 384).check(6, 384) == Size(6, 384)


@given(st.integers(8, 4096))
def test_default_dims_rise_to_the_width(width: int) -> None:
    dims = default_dims(width)
    assert list(dims) == sorted(set(dims))
    assert dims[-1] == width
    assert default_sizes(2, width)[0] == Size(1, dims[0])


@pytest.mark.parametrize("text", ["1-99999999x8", "1-999x1-999", "9999999999x8", "1-9999999999x8"])
def test_a_grid_that_no_model_has_is_refused_at_once(text: str) -> None:
    with pytest.raises(UserError, match=r"at most|not a number"):
        parse_sizes(text)


def test_a_size_of_too_many_digits_is_no_size() -> None:
    with pytest.raises(UserError, match="is not a size"):
        Size.parse("6x" + "9" * 5000)
