"""A plan in words, as JSON, as a picture and as HTML."""

from __future__ import annotations

import json

import numpy as np
import pytest

from matryoshka2d.evaluation.cost import Costs
from matryoshka2d.evaluation.report.figures import png_bytes
from matryoshka2d.planning import Budget, Plan
from matryoshka2d.planning.view import plan_figure, plan_page, table_rows
from tests.planning.cases import made_costs, made_quality

SCORES = {"1x32": 70.0, "1x128": 72.0, "3x32": 76.0, "3x128": 78.5, "6x32": 76.8, "6x128": 80.0}


def made(fidelity: bool = False, units: int = 1379, **limits: str) -> Plan:
    quality = made_quality(SCORES, fidelity=fidelity)
    quality.units["stsb"] = units  # type: ignore[index]
    return Plan(Budget(**limits), quality, made_costs(6), "my-model")


def test_the_answer_stands_first_with_its_reasons() -> None:
    plan = made(max_latency="5ms", min_quality="97%", max_index="20GB", documents="20M")
    assert str(plan.size) == "3x128"
    lines = str(plan).splitlines()
    assert (
        lines[0] == "take 3x128: 98.1% [97.1%, 99.1%] of the full size's quality, 3 ms (p95), index 10.2 GB"
    )
    text = str(plan)
    assert "1 of 6 sizes obey: latency (p95) ≤ 5 ms, index ≤ 20 GB for 20 M documents" in text
    assert "the scarcest resource is latency (p95): 3x128 uses 60% of the limit" in text
    assert "stsb (1,379)" in text


def test_when_nothing_satisfies_the_nearest_are_named_with_what_they_miss() -> None:
    plan = made(max_latency="2ms", min_quality="97%")
    assert plan.size is None
    assert plan.headline == "no size satisfies this: the nearest are 1x128, 1x32, 3x128"
    assert "quality 89.0% instead of ≥ 97.0%" in plan.reasons[0]
    assert any("latency (p95) ≤ 3 ms would allow 3x128" in line for line in plan.relaxed())


def test_fidelity_says_that_it_is_not_quality() -> None:
    plan = made(fidelity=True, min_quality="97%")
    assert "agreement with the full size" in plan.headline
    assert any("fidelity, not quality" in note for note in plan.notes)
    assert "agrees" in str(plan)
    assert not any("fidelity" in note for note in made(min_quality="97%").notes)


def test_data_that_are_too_few_to_tell_are_said_to_be_so() -> None:
    # 3x32 keeps 95%, give or take one.
    plan = made(min_quality="94.5%")
    assert str(plan.size) == "3x128"
    (note,) = [note for note in plan.notes if "too few to tell" in note]
    assert note.startswith("1,379 pairs are too few to tell whether cheaper sizes keep 94.5%: 3x32 may")
    # The half-width of 1% must shrink to the 0.5% that it lies above the floor: four times the pairs.
    assert "about 6,000 would tell" in note
    assert any("20 pairs are too few to tell" in note for note in made(units=20).notes)
    assert not any("too few" in note for note in made(min_quality="93%").notes)


def test_without_a_floor_a_better_size_that_cannot_be_told_apart_is_named() -> None:
    quality = made_quality(SCORES)
    quality.margins[:] = 20.0
    plan = Plan(Budget(max_latency="5ms"), quality, made_costs(6))
    assert str(plan.size) == "1x32"
    (note,) = [note for note in plan.notes if "too few to tell" in note]
    assert "too few to tell 1x32 from 3x128, which scored 8.5 points more and costs more" in note
    # A margin of 20 must shrink to 8.5: (20 / 8.5)^2 times the pairs.
    assert "about 8,000 would tell" in note
    assert not any("too few" in note for note in made(max_latency="5ms").notes)


def test_scores_below_zero_are_no_reason_to_stop() -> None:
    plan = Plan(Budget(), made_quality({"1x8": -20.0, "2x8": -10.0}), made_costs(2))
    assert str(plan.size) == "2x8"
    assert not any("too few to tell" in note for note in plan.notes)


def test_relaxing_is_said_in_full() -> None:
    lines = made(max_latency="3ms").relaxed()
    assert lines == (
        "latency (p95) ≤ 6 ms would allow 6x128, 100.0% [100.0%, 100.0%] of the full size's quality, "
        "6 ms (p95); the most now is 98.1%, of 3x128",
    )
    assert made(max_latency="30ms").relaxed() == ("latency (p95): moving it alone would buy nothing",)


def test_as_json_everything_is_there() -> None:
    plan = made(max_latency="5ms", documents="1M")
    values = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert values["size"] == "3x128"
    assert values["budget"] == {"max_latency": 0.005, "documents": 1_000_000, "precision": "float32"}
    assert [row["size"] for row in values["sizes"]] == list(SCORES)
    assert {row["size"] for row in values["sizes"] if row["obeys"]} == {"1x32", "1x128", "3x32", "3x128"}
    assert {row["size"] for row in values["sizes"] if row["front"]} == {"1x128", "3x128", "6x128"}
    assert values["relaxations"] == [{"constraint": "max_latency", "limit": 0.006, "size": "6x128"}]


@pytest.mark.parametrize("limits", [{"max_latency": "5ms"}, {"max_latency": "1us"}, {}])
def test_the_picture_is_not_blank_and_marks_the_answer(limits: dict[str, str]) -> None:
    plan = made(**limits)
    figure = plan_figure(plan)
    assert png_bytes(figure, 50).startswith(b"\x89PNG")
    labels = {text.get_text() for text in figure.axes[0].texts}
    assert labels == {str(plan.size or plan.nearest[0].row.size)}


def test_html_is_one_fragment_or_one_page_and_escapes_names() -> None:
    plan = Plan(Budget(), made_quality(SCORES), made_costs(6), "<b>&")
    fragment, page = plan._repr_html_(), plan_page(plan)
    assert fragment.strip().startswith("<div") and fragment.strip().endswith("</div>")
    assert page.startswith("<!DOCTYPE html>")
    assert "&lt;b&gt;&amp;" in page and "<b>&" not in page
    assert page.count("<tr") == 1 + len(plan.front)
    for text in (fragment, page):
        assert "data:image/png;base64," in text
        assert "http" not in text.replace("http-equiv", "")


def test_a_long_front_is_cut_and_the_answer_is_never_left_out() -> None:
    scores = {f"{n}x{d}": 50 + 3 * n + d / 100 for n in range(1, 7) for d in (8, 16, 32, 64, 128, 256)}
    plan = Plan(
        Budget(min_quality="70%", documents=1, max_latency="1s", max_index="1GB"),
        made_quality(scores),
        made_costs(6),
    )
    shown, left_out = table_rows(plan)
    assert len(shown) == 16
    assert plan.row in shown
    assert len(plan.front) == 16 - (plan.row not in plan.front) + left_out


def test_undefined_quality_is_shown_as_a_dash_and_never_chosen() -> None:
    quality = made_quality({"1x8": np.nan, "2x8": 80.0})
    plan = Plan(Budget(), quality, made_costs(2))
    assert str(plan.size) == "2x8"
    assert json.dumps(plan.to_dict(), allow_nan=False)
    assert png_bytes(plan_figure(plan), 40)
    assert str(plan)
    costs = Costs({n: made_costs(2).depths[n] for n in (1, 2)})
    assert Plan(Budget(min_quality="99%"), quality, costs).size is not None
