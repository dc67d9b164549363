"""Tables for terminals and for Markdown."""

from __future__ import annotations

import io
import math

import pytest
from matplotlib import colormaps
from rich.console import Console

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import Grid
from matryoshka2d.evaluation.report import Scale, grid_table, markdown_table, sets_table
from matryoshka2d.evaluation.report.color_scale import COLOR_MAP
from matryoshka2d.size import Size, parse_sizes
from tests.evaluation.report.grids import small_grid


def printed(table: object, *, color: bool = False) -> str:
    output = io.StringIO()
    Console(file=output, width=120, force_terminal=color, color_system="truecolor" if color else None).print(
        table
    )
    return output.getvalue()


def test_the_terminal_table_shows_every_cell_and_marks_the_dip() -> None:
    text = printed(grid_table(small_grid()))
    assert "toy, Spearman × 100, mean of 2 sets" in " ".join(text.split())
    assert "54.00!" not in text
    assert f"{small_grid().mean('2x8'):.2f}!" in text
    assert text.count("!") == 2
    for size in small_grid().sizes:
        assert f"{small_grid().mean(size):.2f}" in text


def test_colors_follow_the_score() -> None:
    text = printed(grid_table(small_grid()), color=True)
    assert "48;2;253;231;37" in text
    assert "48;2;68;1;84" in text


def test_no_legend_without_a_step_down() -> None:
    assert "!" not in printed(grid_table(small_grid(), tolerance=50))
    assert "!" not in markdown_table(small_grid(), tolerance=50)


def test_one_set_and_gaps() -> None:
    diagonal = Grid(parse_sizes("1x8 2x16"), {"stsb": (50.0, math.nan), "sickr": (51.0, 52.0)})
    text = printed(grid_table(diagonal, set_name="stsb", title="a title"))
    assert "a title" in text
    assert "50.00" in text
    assert "–" in text
    assert markdown_table(diagonal, set_name="sickr").splitlines()[2:] == [
        "| 1 | 51.00 |  |",
        "| 2 |  | 52.00 |",
    ]
    with pytest.raises(UserError, match="no set 'sts'"):
        grid_table(diagonal, set_name="sts")


def test_sets_as_columns() -> None:
    text = printed(sets_table(small_grid(), sizes=[Size(3, 32)]))
    assert all(word in text for word in ("3x32", "stsb", "sickr", "mean", "65.00", "61.00", "63.00"))
    assert "2x8" not in text
    assert "2x8" in printed(sets_table(small_grid()))


def test_the_colors_are_those_of_the_map() -> None:
    scale = Scale(0.0, 1.0)
    for step in range(101):
        share = step / 100
        expected = [255 * part for part in colormaps[COLOR_MAP](share)[:3]]
        assert scale.color(share) == pytest.approx(expected, abs=20)
    assert scale.color(-5.0) == scale.color(0.0)
    assert scale.color(5.0) == scale.color(1.0)
    assert scale.ink(0.0) == (255, 255, 255)
    assert scale.ink(1.0) == (0, 0, 0)


def test_a_scale_of_one_value_or_none() -> None:
    assert Scale(3.0, 3.0).color(3.0) == (253, 231, 37)
    assert Scale.of([Grid((Size(1, 8),), {"a": (math.nan,)})]) == Scale(0.0, 0.0)
    assert Scale(0.0, 1.0).color(math.nan) == (160, 160, 160)
