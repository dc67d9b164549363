"""The report is one file that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import Grid
from matryoshka2d.evaluation.report import render_report, write_report
from matryoshka2d.size import Size
from tests.evaluation.report.grids import small_grid


class Balance(HTMLParser):
    """Checks that every element that opens also closes, and collects what is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(text: str) -> Balance:
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def report() -> str:
    return render_report(
        small_grid("my <model>"),
        comparisons={"before": small_grid("x", shift=-5), "PCA cut": small_grid("y", shift=1)},
        provenance={"command": "matryoshka2d evaluate <model>", "versions": {"torch": "2.13"}},
    )


def test_nothing_is_loaded_from_elsewhere(report: str) -> None:
    loaded = [source for source in parse(report).loaded if not source.startswith("#")]
    assert len(loaded) == 3
    assert all(source.startswith("data:image/png;base64,") for source in loaded)
    assert not re.search(r"https?://|//cdn|@import|url\(|<script|<link", report)


def test_the_navigation_leads_to_what_is_there(report: str) -> None:
    targets = {source[1:] for source in parse(report).loaded if source.startswith("#")}
    assert targets == set(re.findall(r' id="([^"]+)"', report))
    assert {"picture", "scores", "with-2", "set-2", "origin"} <= targets


def test_the_picture_comes_first(report: str) -> None:
    assert report.index("data:image/png") < report.index("<table")


def test_names_are_escaped(report: str) -> None:
    assert "my &lt;model&gt;" in report
    assert "<model>" not in report


def test_every_score_the_marks_and_the_facts(report: str) -> None:
    grid = small_grid()
    for size in grid.sizes:
        assert f">{grid.mean(size):.2f}" in report
    assert "2x8 is 5.00 below 1x8" in report
    assert report.count('<span class="mark">') == 5, "the dip in the grid, two comparisons and two sets"
    assert "command" in report
    assert "torch 2.13" in report
    assert "<th>split</th><td>test</td>" in report


def test_differences_are_signed(report: str) -> None:
    assert report.count('<span class="change better">+5.00</span>') == len(small_grid().sizes)
    assert report.count('<span class="change worse">−1.00</span>') == len(small_grid().sizes)
    same = render_report(small_grid(), comparisons={"itself": small_grid()})
    assert same.count('<span class="change same">0.00</span>') == len(small_grid().sizes)


def test_sets_are_folded_away(report: str) -> None:
    assert [name in report for name in ("<summary>stsb", "<summary>sickr")] == [True, True]


def test_a_grid_of_one_set_and_one_size() -> None:
    text = render_report(Grid((Size(1, 8),), {"cisi": (33.0,)}, "ndcg@10"), title="Retrieval")
    parse(text)
    assert "nDCG@10 × 100" in text
    assert "Set by set" not in text
    assert "No size is worse" in text


def test_a_comparison_may_have_the_same_name() -> None:
    text = render_report(small_grid("toy"), comparisons={"toy": small_grid("toy", shift=3)})
    assert "−3.00" in text


def test_writing(tmp_path: Path) -> None:
    file = write_report(tmp_path / "new" / "report.html", small_grid(), title="A title")
    assert "<title>A title</title>" in file.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="exists already"):
        write_report(file, small_grid(), overwrite=False)


def test_grids_that_cannot_be_compared() -> None:
    other = Grid((Size(1, 8),), {"cisi": (33.0,)}, "ndcg@10")
    with pytest.raises(UserError, match="same metric and sets"):
        render_report(small_grid(), comparisons={"other": other})
