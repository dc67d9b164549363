"""The report: what the JSON says is what the tables say; it can be made again from a clone."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from reproduction.tests.conftest import Ran

from matryoshka2d import UserError
from matryoshka2d.evaluation import bootstrap_means, bootstrap_spearman
from matryoshka2d_reproduction import machine
from matryoshka2d_reproduction.comparisons import (
    IntervalBook,
    Place,
    Question,
    places,
    runs_at,
    statistics_of,
)
from matryoshka2d_reproduction.measuring import resampled_scores
from matryoshka2d_reproduction.report import (
    claims_section,
    machine_section,
    make_page,
    write_joint_page,
    write_report,
)
from matryoshka2d_reproduction.results import (
    INTERVALS_FILE,
    PLAN_FILE,
    PUBLISHED_RESAMPLES,
    Result,
    Results,
    read_json,
    read_scores,
    read_table,
    scores_file,
    write_table,
)

RESAMPLES = 50


def results_in(folder: Path) -> list[Result]:
    return Results(folder).read()


def statistics(folder: Path, cache: Path) -> list[dict[str, Any]]:
    """Return what a report reads of the results in a folder."""
    facts = read_json(folder / PLAN_FILE)
    return statistics_of(facts, results_in(folder), IntervalBook(Results(folder), cache, RESAMPLES))


def page_of(folder: Path, cache: Path, resamples: int = RESAMPLES) -> str:
    """Compute and keep the intervals, and return the page, without drawing pictures."""
    book = IntervalBook(Results(folder), cache, resamples)
    page, _ = make_page(book)
    book.save()
    return page.markdown()


@pytest.fixture(scope="module")
def reported(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported") / "toy"
    shutil.copytree(ran.request.results, folder)
    write_report(folder, cache=ran.request.cache, resamples=RESAMPLES)
    return folder


def test_runs_of_one_place_are_joined_over_seeds_and_sizes(ran: Ran) -> None:
    results = results_in(ran.request.results)
    assert places(results) == [Place("tiny", ("toy",), "sts"), Place("tiny", ("toy",), "beir")]
    runs = runs_at(results, Place("tiny", ("toy",), "sts"))
    assert set(runs) == set(ran.request.plan.methods)
    separate = runs["separate"]
    assert (separate.seeds, list(map(str, separate.sizes))) == ((0, 1), ["1x8", "2x16"])
    own = {(r.seed, r.size): r.grids["sts"] for r in results if r.method == "separate"}
    assert separate.grids[1].mean("2x16") == own[1, "2x16"].mean("2x16")
    mean = np.mean([own[seed, "1x8"].mean("1x8") for seed in (0, 1)])
    assert separate.mean_grid().mean("1x8") == pytest.approx(mean)


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ([("plain", "nli"), ("ours", "texts")], [("nli", "texts")]),
        ([("plain", "nli"), ("plain", "texts"), ("ours", "nli")], [("nli",), ("texts",)]),
        ([], [()]),
    ],
)
def test_methods_of_one_data_set_each_are_compared_across_them(
    ran: Ran, trained: list[tuple[str, str]], expected: list[tuple[str, ...]]
) -> None:
    one = results_in(ran.request.results)[0]
    made = [dataclasses.replace(one, method=method, data=data) for method, data in trained]
    untouched = dataclasses.replace(one, method="untouched", data="")
    found = places([untouched, *made])
    assert found == [Place("tiny", data, task) for data in expected for task in one.grids]
    for place in found:
        here = {method for method, data in trained if data in place.data}
        assert set(runs_at([untouched, *made], place)) == {"untouched", *here}


def test_resampled_scores_are_those_of_the_grids(ran: Ran) -> None:
    for result in results_in(ran.request.results):
        for task, grid in result.grids.items():
            found = resampled_scores(result.key, task, Results(ran.request.results), "nowhere", RESAMPLES)
            np.testing.assert_allclose(found.score, list(grid.values().values()), atol=0.3)
            assert found.deviations.shape == (RESAMPLES, len(grid.sizes))


def test_statistics_hold_every_comparison_with_its_counts(ran: Ran, reported: Path) -> None:
    (sts, beir) = statistics(reported, ran.request.cache)
    assert [(c["method"], c["other"], c["count"]) for c in sts["comparisons"]] == [
        ("ours", "separate", 2),
        ("ours", "plain", 4),
        ("both", "untouched", 4),
    ]
    first = sts["comparisons"][0]
    assert (first["seeds"], first["paired_seeds"], first["tests_over_seeds"]) == ([2], True, None)
    assert sts["comparisons"][2]["paired_seeds"] is False
    for entry in sts["comparisons"]:
        for size, (estimate, low, high, lower, upper) in entry["sizes"].items():
            assert lower <= low <= estimate <= high <= upper
            assert (size in entry["better"]) == (lower > 0)
            assert (size in entry["worse"]) == (upper < 0)
            assert (size in entry["not_at_least_as_good"]) == (lower <= -0.3)
    assert beir["claims"] == []


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("at least as good", "weakest at 2x8: +0.50 [-1.20, +2.20]; mean of 2: +0.30 [-0.50, +1.00]"),
        ("worse", "weakest at 2x8: +0.50 [-1.20, +2.20]; mean of 2: +0.30 [-0.50, +1.00]"),
        ("keeps 0.9", "weakest at 1x8: 0.10%; mean of 2: 0.30% [-0.50, 1.00]"),
    ],
)
def test_a_claim_of_many_sizes_says_which_one_decides_it(verdict: str, said: str) -> None:
    """The widest interval fails first, though its lead is not the smallest."""
    sizes = {"1x8": [0.1, 0.0, 0.2, -0.1, 0.3], "2x8": [0.5, -1.0, 2.0, -1.2, 2.2]}
    claim = {"text": "It is so.", "verdict": verdict, "holds": False, "sizes": sizes}
    section = claims_section([{**claim, "mean over sizes": [0.3, -0.5, 1.0]}])
    assert section.rows == (("It is so.", "**not confirmed here**", said),)


def test_claims_are_judged_by_their_figures(ran: Ran, reported: Path) -> None:
    sts = statistics(reported, ran.request.cache)[0]
    mean, keeps = sts["claims"]
    assert mean["holds"] == (mean["mean over sizes"][1] > -0.3)
    assert keeps["holds"] == (keeps["sizes"]["2x8"][0] >= 1)


def test_a_claim_about_sizes_that_did_not_all_run_is_not_judged(
    ran: Ran, reported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(reported, folder)
    facts = read_json(folder / PLAN_FILE)
    claim = {"text": "At every size.", "method": "ours", "other": "separate", "sizes": "", "task": "sts"}
    facts["claims"] = [{**claim, "verdict": "at least as good"}]
    (folder / PLAN_FILE).write_text(json.dumps(facts))

    def judged() -> dict[str, Any]:
        claims: list[dict[str, Any]] = statistics(folder, ran.request.cache)[0]["claims"]
        return claims[0]

    assert set(judged()["sizes"]) == {"1x8", "2x16"}
    runs = read_table(folder / "runs.parquet")
    kept = [(row["method"], row["size"]) != ("separate", "1x8") for row in runs.to_pylist()]
    write_table(folder / "runs.parquet", runs.filter(pyarrow.array(kept)))
    assert judged()["missing"] is True
    assert "| At every size. | not compared |" in page_of(folder, ran.request.cache)


def test_a_gpu_is_named_where_it_made_a_figure(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A fast GPU")
    (found,) = [one for one in results_in(ran.request.results) if one.method == "untouched"]
    there = dataclasses.replace(found, facts={**found.facts, "measured_on": machine.facts()})
    runs = [runs_at([one], places([one])[0])["untouched"] for one in (found, there)]
    text = machine_section(runs, "plan.yaml", "fp32").text
    assert [line.startswith("A fast GPU, beside ") for line in text[1:]] == [False, True]


def test_the_page_shows_scores_comparisons_and_where_figures_come_from(reported: Path) -> None:
    page = (reported / "README.md").read_text(encoding="utf-8")
    assert page.startswith("# A toy plan\n\nNothing here means anything.\n")
    for title in ("Claims", "Scores", "Comparisons", "ours over separate", "Seeds", "Cost"):
        assert f"\n## {title}: tiny, toy, sts\n" in page
    assert "not measured here" in page
    assert "82.65" in page
    assert "`matryoshka2d-reproduce run plans/toy.yaml --data DATA`" in page
    runs = runs_at(results_in(reported), Place("tiny", ("toy",), "sts"))
    row = next(line for line in page.splitlines() if line.startswith("| ours | 2 |"))
    assert f" {runs['ours'].mean_grid().mean_over_sizes():.2f} ± " in row
    for file in re.findall(r"\]\(([^)]+\.png)\)", page):
        assert (reported / file).stat().st_size > 1000


def test_pictures_show_the_methods_that_the_plan_names_and_all_if_it_names_none(
    reported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(reported, folder)
    facts = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    panels = []
    for named in ([], ["ours", "plain"]):
        (folder / PLAN_FILE).write_text(json.dumps({**facts, "pictures": named}), encoding="utf-8")
        _, pictures = make_page(IntervalBook(Results(folder), resamples=RESAMPLES))
        figure = pictures["tiny-toy-sts-heatmap.png"]()
        panels.append([axes.get_title() for axes in figure.axes if axes.get_title()])
    everything, chosen = panels
    assert [title.split()[0] for title in chosen] == ["ours", "plain"]
    assert len(everything) > len(chosen)


def test_pictures_are_small(reported: Path) -> None:
    for file in reported.glob("*.png"):
        with Image.open(file) as picture:
            assert picture.mode == "P"
            assert file.stat().st_size < picture.width * picture.height / 4


class TestIntervals:
    """They are computed once, and the more resamples win."""

    def test_a_clone_without_the_scores_says_the_same(self, reported: Path, tmp_path: Path) -> None:
        clone = tmp_path / "toy"
        shutil.copytree(reported, clone)
        before = {file.name: file.read_bytes() for file in reported.iterdir() if file.suffix != ".lock"}
        write_report(clone, cache=tmp_path / "nothing", resamples=RESAMPLES)
        assert {file.name: file.read_bytes() for file in clone.iterdir() if file.suffix != ".lock"} == before

    def test_new_ones_come_from_the_published_resamples_and_the_page_says_so(
        self, ran: Ran, tmp_path: Path
    ) -> None:
        clone = tmp_path / "toy"
        shutil.copytree(ran.request.results, clone)
        more = PUBLISHED_RESAMPLES + 50
        note = f"come from the {PUBLISHED_RESAMPLES} resamples that are published, in place of {more}"

        def counts() -> set[int]:
            return set(read_table(clone / INTERVALS_FILE)["resamples"].to_pylist())

        assert note in page_of(clone, tmp_path / "nothing", more)
        assert counts() == {PUBLISHED_RESAMPLES}
        assert note not in page_of(clone, ran.request.cache, more)
        assert counts() == {more}
        kept = (clone / INTERVALS_FILE).read_bytes()
        page_of(clone, tmp_path / "nothing", more)
        assert (clone / INTERVALS_FILE).read_bytes() == kept

    def test_those_of_the_published_resamples_are_those_of_the_scores(self, ran: Ran, tmp_path: Path) -> None:
        runs = runs_at(results_in(ran.request.results), Place("tiny", ("toy",), "sts"))
        question = Question("lead", "sts", runs["ours"], runs["plain"], runs["ours"].sizes)
        results = Results(ran.request.results)
        from_scores, from_published = (
            IntervalBook(results, cache, RESAMPLES)(question)
            for cache in (ran.request.cache, tmp_path / "nothing")
        )
        for name in ("estimate", "low", "high", "lower", "upper"):
            got, expected = getattr(from_published, name), getattr(from_scores, name)
            np.testing.assert_allclose(got, expected, atol=0.01)

    def test_another_run_of_the_same_name_has_others(self, ran: Ran) -> None:
        results = results_in(ran.request.results)
        place = Place("tiny", ("toy",), "sts")
        changed = [dataclasses.replace(one, key="0" * 16) if one.method == "ours" else one for one in results]
        keys = set()
        for known in (results, changed):
            runs = runs_at(known, place)
            keys.add(Question("lead", "sts", runs["ours"], runs["plain"], runs["ours"].sizes).key)
        assert len(keys) == 2


def test_resampled_scores_are_the_bootstrap_of_the_scores(ran: Ran) -> None:
    result = next(one for one in results_in(ran.request.results) if one.method == "ours")
    path = scores_file(ran.request.cache, result.key)
    for task, bootstrap in (("sts", bootstrap_spearman), ("beir", lambda s, _, **c: bootstrap_means(s, **c))):
        score, draws = bootstrap(*read_scores(path, task), resamples=RESAMPLES).of()
        results = Results(ran.request.results)
        found = resampled_scores(result.key, task, results, ran.request.cache, RESAMPLES)
        np.testing.assert_allclose(found.score, score[0], rtol=1e-12)
        expected = (draws - score)[:, 0]
        # Kept in half precision.
        assert (np.abs(found.deviations - expected) <= 2.0**-11 * np.abs(expected) + 1e-6).all()


def test_plans_are_joined_in_one_page_with_links_to_their_pictures(
    ran: Ran, reported: Path, tmp_path: Path
) -> None:
    target = tmp_path / "docs" / "results.md"
    write_joint_page([reported], target, cache=ran.request.cache, resamples=RESAMPLES, title="Results")
    page = target.read_text()
    assert page.startswith("# Results\n")
    assert "\n## A toy plan\n" in page
    assert "\n### Claims: tiny, toy, sts\n" in page
    confirmed = page.count("**confirmed here**")
    judged = confirmed + page.count("**not confirmed here**")
    assert f"\n- [A toy plan](#a-toy-plan): {confirmed} of {judged} claims confirmed\n" in page
    for file in re.findall(r"\]\(([^)#]+)\)", page):
        assert (target.parent / file).is_file()


def test_a_joint_page_leaves_every_size_to_the_report_of_the_plan(
    ran: Ran, reported: Path, tmp_path: Path
) -> None:
    target = tmp_path / "results.md"
    write_joint_page([reported], target, cache=ran.request.cache, resamples=RESAMPLES)
    page, whole = target.read_text(), (reported / "README.md").read_text()
    assert "## ours over separate: tiny" in whole
    assert "## ours over separate: tiny" not in page
    assert "| ours | separate |" in page


def test_a_folder_without_results_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no results of a plan"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        results_in(tmp_path / "no")
    with pytest.raises(UserError, match="no result in"):
        results_in(tmp_path)
