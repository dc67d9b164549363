"""The report: what the JSON says is what the tables say; it can be made again from a clone."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matryoshka2d_reproduction import machine, report
from matryoshka2d_reproduction.comparisons import Bootstrap, Place, places, runs_at
from matryoshka2d_reproduction.measuring import RESAMPLES as RESAMPLES_PUBLISHED
from matryoshka2d_reproduction.measuring import has_replicates, replicates_of_run
from matryoshka2d_reproduction.report import (
    claims_section,
    machine_section,
    write_joint_page,
    write_results_report,
)
from matryoshka2d_reproduction.results import (
    PLAN_FILE,
    STATISTICS_FILE,
    read_json,
    read_results,
    read_scores,
    scores_file,
)
from reproduction.tests.conftest import Ran

from matryoshka2d import UserError
from matryoshka2d.evaluation.bootstrap import bootstrap_means, bootstrap_spearman

RESAMPLES = 50


@pytest.fixture(scope="module")
def reported(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported") / "toy"
    shutil.copytree(ran.request.results, folder)
    write_results_report(folder, runs=ran.request.cache, resamples=RESAMPLES)
    return folder


def test_runs_of_one_place_are_joined_over_seeds_and_sizes(ran: Ran) -> None:
    results = read_results(ran.request.results)
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
    one = read_results(ran.request.results)[0]
    made = [dataclasses.replace(one, method=method, data=data) for method, data in trained]
    untouched = dataclasses.replace(one, method="untouched", data="")
    found = places([untouched, *made])
    assert found == [Place("tiny", data, task) for data in expected for task in one.grids]
    for place in found:
        here = {method for method, data in trained if data in place.data}
        assert set(runs_at([untouched, *made], place)) == {"untouched", *here}


def test_resampled_scores_are_those_of_the_grids(ran: Ran) -> None:
    runs = runs_at(read_results(ran.request.results), Place("tiny", ("toy",), "sts"))
    for name in ("ours", "separate"):
        got, _ = Bootstrap(ran.request.results, ran.request.cache, RESAMPLES).of(runs[name], "sts").of()
        expected = [list(grid.values().values()) for grid in runs[name].grids]
        np.testing.assert_allclose(got, expected, atol=0.3)


def test_statistics_hold_every_comparison_with_its_counts(reported: Path) -> None:
    statistics = read_json(reported / STATISTICS_FILE)
    (sts, beir) = statistics["places"]
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


def test_claims_are_judged_by_their_figures(reported: Path) -> None:
    sts = read_json(reported / STATISTICS_FILE)["places"][0]
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
        write_results_report(folder, runs=ran.request.cache, resamples=RESAMPLES)
        return read_json(folder / STATISTICS_FILE)["places"][0]["claims"][0]

    assert set(judged()["sizes"]) == {"1x8", "2x16"}
    for file in folder.rglob("separate-1x8-*"):
        file.unlink()
    assert judged()["missing"] is True
    assert "| At every size. | not compared |" in (folder / "README.md").read_text()


def test_a_gpu_is_named_where_it_made_a_figure(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A fast GPU")
    (found,) = [one for one in read_results(ran.request.results) if one.method == "untouched"]
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
    assert "`matryoshka2d reproduce plans/toy.yaml --data DATA`" in page
    runs = runs_at(read_results(reported), Place("tiny", ("toy",), "sts"))
    row = next(line for line in page.splitlines() if line.startswith("| ours | 2 |"))
    assert f" {runs['ours'].mean_grid().mean_over_sizes():.2f} ± " in row
    for file in re.findall(r"\]\(([^)]+\.png)\)", page):
        assert (reported / file).stat().st_size > 1000


def test_pictures_show_the_methods_that_the_plan_names_and_all_if_it_names_none(
    reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(reported, folder)
    shown: list[list[str]] = []
    drawn = report.heatmap
    monkeypatch.setattr(report, "heatmap", lambda grids: shown.append(list(grids)) or drawn(grids))
    facts = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    for named in ([], ["ours", "plain"]):
        (folder / PLAN_FILE).write_text(json.dumps({**facts, "pictures": named}), encoding="utf-8")
        report.results_page(folder, resamples=RESAMPLES)
    everything, chosen = shown[0], shown[-1]
    assert chosen == ["ours", "plain"]
    assert set(chosen) < set(everything)


def test_the_html_page_needs_nothing_else(reported: Path) -> None:
    found: list[str] = []

    class Sources(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend([value or "" for name, value in attrs if name == "src"])

    text = (reported / "report.html").read_text(encoding="utf-8")
    Sources().feed(text)
    assert found
    assert all(source.startswith("data:image/png;base64,") for source in found)
    assert "http" not in re.sub(r"base64,[^\"]+", "", text)


def test_a_clone_without_the_scores_says_the_same(reported: Path, tmp_path: Path) -> None:
    clone = tmp_path / "toy"
    shutil.copytree(reported, clone)
    before = read_json(clone / STATISTICS_FILE), (clone / "README.md").read_text()
    (clone / STATISTICS_FILE).unlink()
    write_results_report(clone, runs=tmp_path / "nothing", resamples=RESAMPLES)
    assert (read_json(clone / STATISTICS_FILE), (clone / "README.md").read_text()) == before


def test_more_resamples_than_were_published_need_the_scores(reported: Path, tmp_path: Path) -> None:
    result = next(one for one in read_results(reported) if one.method == "ours")
    nothing = tmp_path / "nothing"
    assert has_replicates(result, reported, nothing)
    assert not has_replicates(result, reported, nothing, RESAMPLES_PUBLISHED + 1)
    with pytest.raises(UserError, match=r"ours-\d\.json are not in .*nothing: run `matryoshka2d reproduce`"):
        replicates_of_run(result, "sts", reported, nothing, RESAMPLES_PUBLISHED + 1)


def test_replicates_of_an_earlier_run_of_the_same_name_do_not_count(reported: Path, tmp_path: Path) -> None:
    result = next(one for one in read_results(reported) if one.method == "ours")
    other = dataclasses.replace(result, key="0" * 16)
    assert not has_replicates(other, reported, tmp_path / "nothing")


def test_published_replicates_are_the_bootstrap_of_the_scores(ran: Ran) -> None:
    result = next(one for one in read_results(ran.request.results) if one.method == "ours")
    path = scores_file(ran.request.cache, result.key)
    for task, bootstrap in (("sts", bootstrap_spearman), ("beir", lambda s, _, **c: bootstrap_means(s, **c))):
        score, draws = bootstrap(*read_scores(path, task), resamples=RESAMPLES).of()
        kept = replicates_of_run(result, task, ran.request.results, ran.request.cache, RESAMPLES).of()
        np.testing.assert_allclose(kept[0], score, rtol=1e-12)
        rounding = (
            2.0**-11 * np.abs(draws - score) + 1e-6
        )  # of the distance from the score, to half precision
        assert (np.abs(kept[1] - draws) <= rounding).all()


def test_without_replicates_the_means_are_still_shown(ran: Ran, tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(ran.request.results, folder, ignore=shutil.ignore_patterns("*.npz"))
    write_results_report(folder, runs=tmp_path / "nothing", resamples=RESAMPLES)
    page = (folder / "README.md").read_text()
    assert "not compared" in page
    assert "| ours | separate | – |" in page


def test_plans_are_joined_in_one_page_with_links_to_their_pictures(
    ran: Ran, reported: Path, tmp_path: Path
) -> None:
    target = tmp_path / "docs" / "results.md"
    write_joint_page([reported], target, runs=ran.request.cache, resamples=RESAMPLES, title="Results")
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
    write_joint_page([reported], target, runs=ran.request.cache, resamples=RESAMPLES)
    page, whole = target.read_text(), (reported / "README.md").read_text()
    assert "## ours over separate: tiny" in whole
    assert "## ours over separate: tiny" not in page
    assert "| ours | separate |" in page


def test_a_folder_without_results_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no results of a plan"):
        write_results_report(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        read_results(tmp_path / "no")
    with pytest.raises(UserError, match="no result in"):
        read_results(tmp_path)
