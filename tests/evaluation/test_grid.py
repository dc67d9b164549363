"""The grid as a value: reading it, writing it, finding its steps down."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import Grid
from matryoshka2d.size import Size, parse_sizes

GRID = Grid(
    parse_sizes("1-2x8,16"),
    {"stsb": (50.0, 60.0, 55.0, 54.0), "sickr": (40.0, 50.0, 45.0, 52.0)},
    name="toy",
    details={"split": "test"},
)


def test_scores_and_means() -> None:
    assert GRID.mean("1x16") == 55.0
    assert GRID.score(Size(2, 16), "sickr") == 52.0
    assert GRID.values("stsb")[Size(2, 8)] == 55.0
    assert GRID.mean_over_sizes() == 50.75
    assert GRID.mean_over_sizes("sickr") == 46.75
    assert (GRID.layers, GRID.dims, GRID.sets) == ((1, 2), (8, 16), ("stsb", "sickr"))


def test_best_is_the_smallest_of_equals() -> None:
    assert GRID.best() == Size(1, 16)
    tied = Grid(parse_sizes("1-2x8"), {"a": (50.0, 50.0)})
    assert tied.best() == Size(1, 8)
    undefined = Grid(parse_sizes("1-2x8"), {"a": (math.nan, 50.0)})
    assert undefined.best() == Size(2, 8)


def test_inversions_look_both_ways() -> None:
    (mean,) = GRID.inversions()
    assert (mean.size, mean.smaller, mean.loss) == (Size(2, 16), Size(1, 16), 2.0)
    steps = [(str(i.size), str(i.smaller)) for i in GRID.inversions(0.0, "stsb")]
    assert steps == [("2x16", "1x16"), ("2x16", "2x8")]
    assert GRID.inversions(2.0) == ()


def test_neighbors_are_those_of_the_grid() -> None:
    sparse = Grid(parse_sizes("1,6x8,384"), {"a": (60.0, 70.0, 50.0, 75.0)})
    assert [str(step) for step in sparse.inversions()] == ["6x8 is 10.00 below 1x8"]
    diagonal = Grid(parse_sizes("2x32 4x64"), {"a": (60.0, 50.0)})
    assert diagonal.inversions() == ()


def test_the_json_form() -> None:
    values = json.loads(GRID.to_json())
    assert values["grid"]["2x16"] == {"mean": 53.0, "stsb": 54.0, "sickr": 52.0}
    assert values["metric"] == "spearman"
    assert Grid.from_dict({"grid": values["grid"]}).values() == GRID.values()


@given(
    sizes=st.sets(st.tuples(st.integers(1, 12), st.integers(1, 768)), min_size=1, max_size=8),
    data=st.data(),
)
def test_json_round_trip(sizes: set[tuple[int, int]], data: st.DataObject) -> None:
    scores = st.lists(
        st.floats(-100, 100).map(lambda x: round(x, 4)), min_size=len(sizes), max_size=len(sizes)
    )
    grid = Grid(
        tuple(sorted(Size(n, d) for n, d in sizes)),
        {"a": tuple(data.draw(scores)), "b ä": tuple(data.draw(scores))},
        "pearson",
        "pca",
        "a model",
        {"pairs": {"a": 3}},
    )
    assert Grid.from_json(grid.to_json()) == grid


def test_an_undefined_score_becomes_null() -> None:
    grid = Grid((Size(1, 8),), {"a": (math.nan,)})
    assert json.loads(grid.to_json())["grid"]["1x8"] == {"mean": None, "a": None}
    assert math.isnan(Grid.from_json(grid.to_json()).mean("1x8"))
    assert grid.to_csv().endswith("1x8,1,8,,\n")


def test_means_alone_are_a_grid_of_one_set() -> None:
    assert Grid.from_dict({"grid": {"1x8": {"mean": 50.0}}}).scores == {"all": (50.0,)}


def test_csv() -> None:
    lines = GRID.to_csv().splitlines()
    assert lines[:2] == ["size,layers,dims,mean,stsb,sickr", "1x8,1,8,45.0000,50.0000,40.0000"]
    assert len(lines) == 5


def test_files(tmp_path: Path) -> None:
    GRID.save(tmp_path / "new" / "grid.json")
    assert Grid.load(tmp_path / "new" / "grid.json") == GRID
    GRID.save(tmp_path / "grid.csv")
    assert (tmp_path / "grid.csv").read_text() == GRID.to_csv()
    with pytest.raises(UserError, match="exists already"):
        GRID.save(tmp_path / "grid.csv", overwrite=False)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"grid": {}}', '{"grid": {"1x8": 3}}', '{"grid": {"1x8": {"a": "x"}}}']
)
def test_what_is_not_a_grid(tmp_path: Path, text: str) -> None:
    file = tmp_path / "grid.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"grid\.json: not a grid"):
        Grid.load(file)


def test_wrong_use() -> None:
    with pytest.raises(UserError, match="cannot read the grid"):
        Grid.load("nowhere.json")
    with pytest.raises(UserError, match="no set 'stsx'"):
        GRID.values("stsx")
    with pytest.raises(UserError, match="size 3x8 is not in the grid"):
        GRID.mean("3x8")
    with pytest.raises(UserError, match="at least one size"):
        Grid((), {"a": ()})
    with pytest.raises(UserError, match="cannot be called 'mean'"):
        Grid((Size(1, 8),), {"mean": (1.0,)})
    with pytest.raises(UserError, match="2 scores for 1 sizes"):
        Grid((Size(1, 8),), {"a": (1.0, 2.0)})
    with pytest.raises(UserError, match="ascending"):
        Grid((Size(2, 8), Size(1, 8)), {"a": (1.0, 2.0)})
