"""Running a plan: every kind of method, nothing twice, and nothing lost when it is stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from reproduction.tests.conftest import CONTENT, Ran, request_of

from matryoshka2d import ElasticEncoder, Size, UserError
from matryoshka2d.evaluation import read_sts, sts_grid
from matryoshka2d_reproduction.models import ModelStore
from matryoshka2d_reproduction.plan import plan_of
from matryoshka2d_reproduction.results import (
    CHOICE_FILE,
    PUBLISHED_RESAMPLES,
    Result,
    Results,
    read_json,
    read_scores,
    scores_file,
    write_json,
)
from matryoshka2d_reproduction.runner import note_trial, read_choices, reproduce
from matryoshka2d_reproduction.runs import Request, Run


def copied(ran: Ran, folder: Path, **changes: Any) -> Request:
    """Return the request of the plan that ran, on a copy of what it left behind."""
    root = ran.request.results.parents[1]
    for name in ("results", "cache"):
        shutil.copytree(root / name, folder / name)
    return dataclasses.replace(
        ran.request, results=folder / "results" / "toy", cache=folder / "cache", **changes
    )


def results_in(folder: Path) -> list[Result]:
    return Results(folder).read()


def published(folder: Path) -> dict[str, bytes]:
    """Return every file of a plan's results with its content."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


def tasks_of(results: list[Result], *methods: str) -> dict[Any, Any]:
    return {one.which: one.grids for one in results if one.method in methods}


def without(folder: Path, method: str, seed: int) -> None:
    """Lose one result of a plan, as if it had not run."""
    file = folder / "runs.parquet"
    table = parquet.read_table(file)
    lost = [
        (row["method"], row["seed"]) == (method, seed) for row in table.select(["method", "seed"]).to_pylist()
    ]
    parquet.write_table(table.filter(pyarrow.array([not one for one in lost])), file)


def with_method(request: Request, name: str, **row: Any) -> Request:
    """Return the request with one method's options changed."""
    methods = dict(request.plan.methods)
    methods[name] = dataclasses.replace(methods[name], **row)
    return dataclasses.replace(request, plan=dataclasses.replace(request.plan, methods=methods))


class TestWhatRan:
    def test_every_method_ran_with_its_seeds_and_what_is_untrained_once(self, ran: Ran) -> None:
        runs = [(r.method, r.seed, r.size) for r in results_in(ran.request.results)]
        expected = [("untouched", 0, ""), ("both", 0, "")]
        expected += [
            (m, s, "")
            for m in ("fitted", "plain", "theirs", "ours", "taught", "pca", "turned", "random")
            for s in (0, 1)
        ]
        expected += [("separate", s, size) for s in (0, 1) for size in ("1x8", "2x16")]
        assert sorted(runs) == sorted(expected)
        assert len(ran.outcome.done) == len(expected)

    def test_the_number_of_runs_is_logged_first(self, ran: Ran) -> None:
        assert ran.lines[0] == "toy: 22 runs and 4 trials on dev to do, 0 runs are there already"

    def test_a_result_holds_what_made_it_and_no_path_of_this_machine(self, ran: Ran) -> None:
        root = str(ran.request.results.parents[1])
        for result in results_in(ran.request.results):
            assert root not in json.dumps(result.facts).replace(f"{root}/models", ""), result.which
        assert root not in (ran.request.results / CHOICE_FILE).read_text(encoding="utf-8")
        (ours,) = (r for r in results_in(ran.request.results) if r.method == "ours" and r.seed == 1)
        assert ours.facts["command"] == (
            "matryoshka2d-reproduce run plans/toy.yaml --data DATA --only ours --seeds 1"
        )
        assert ours.facts["options"]["files"] == ["toy.jsonl"]
        assert ours.facts["options"]["learning_rate"] == 1e-2
        assert ours.facts["cost"]["train_seconds"] > 0
        assert ours.facts["cost"]["train_peak_memory_mb"] > 100
        assert ours.facts["trained_on"]["torch"] == ours.facts["measured_on"]["torch"]
        assert set(ours.grids) == {"sts", "beir"}

    def test_the_kept_scores_give_the_grid(self, ran: Ran) -> None:
        from matryoshka2d.evaluation.cosine import spearman

        for result in results_in(ran.request.results):
            cosines, gold = read_scores(scores_file(ran.request.cache, result.key), "sts")
            grid = result.grids["sts"]
            for name, values in cosines.items():
                assert values.shape == (len(gold[name]), len(grid.sizes))
                again = 100 * spearman(values.astype(np.float64), gold[name])
                np.testing.assert_allclose(again, grid.scores[name], atol=0.3)
            queries, nothing = read_scores(scores_file(ran.request.cache, result.key), "beir")
            np.testing.assert_allclose(
                100 * queries["beir"].mean(axis=0), result.grids["beir"].scores["beir"], atol=1e-3
            )
            assert nothing == {}

    def test_untouched_is_the_backbone_measured_as_evaluate_would(self, ran: Ran) -> None:
        encoder = ElasticEncoder(ran.request.plan.backbones["tiny"].model, device="cpu")
        sets = read_sts(Path(ran.request.data_folder) / "sts")
        expected = sts_grid(encoder, sets, sizes=ran.request.plan.sizes)
        (result,) = (r for r in results_in(ran.request.results) if r.method == "untouched")
        for name in expected.sets:
            np.testing.assert_allclose(result.grids["sts"].scores[name], expected.scores[name], atol=1e-3)

    def test_a_cut_leaves_the_full_width_as_it_is(self, ran: Ran) -> None:
        by_name = {(r.method, r.seed): r.grids["sts"] for r in results_in(ran.request.results)}
        for cut, source in (("pca", "plain"), ("random", "untouched")):
            for size in ("1x16", "2x16"):
                got = by_name[cut, 0].mean(size)
                assert got == pytest.approx(by_name[source, 0].mean(size), abs=0.5)
            assert by_name[cut, 0].mean("1x8") != pytest.approx(by_name[source, 0].mean("1x8"), abs=0.5)

    def test_only_models_that_others_need_are_kept(self, ran: Ran) -> None:
        store = ModelStore(ran.request.plan, ran.request.data_folder, ran.request.cache)
        kept = {folder.name for folder in (ran.request.cache / "models").iterdir() if folder.is_dir()}
        assert kept == {
            store.key(Run(name, "tiny", "toy", seed)) for name in ("plain", "ours") for seed in (0, 1)
        }


class TestDev:
    def test_choices_stand_in_a_file_of_their_own(self, ran: Ran) -> None:
        trials = read_json(ran.request.results / CHOICE_FILE)["trials"]
        assert [(t["size"], t["options"]) for t in trials] == [
            (size, {"learning_rate": rate}) for size in ("1x8", "2x16") for rate in (1e-4, 1e-2)
        ]
        assert set(trials[0]["scores"]) == {"stsb-dev", "sickr-dev", "captions-dev"}
        for result in results_in(ran.request.results):
            assert not any("-dev" in name for grid in result.grids.values() for name in grid.sets)

    def test_a_trial_on_another_number_of_rows_does_not_count(self, ran: Ran, tmp_path: Path) -> None:
        request = copied(ran, tmp_path)
        assert read_choices(request)
        method = request.plan.methods["separate"]
        assert method.choose is not None
        more = dataclasses.replace(method.choose, limit=(method.choose.limit or 0) + 1)
        assert not read_choices(with_method(request, "separate", choose=more))

    def test_a_trial_of_a_value_for_another_depth_does_not_count(self, ran: Ran, tmp_path: Path) -> None:
        request = copied(ran, tmp_path)
        method = request.plan.methods["separate"]
        assert method.choose is not None
        rates = {"learning_rate": {1: (1e-2,), 2: (1e-4,)}}
        other = with_method(request, "separate", choose=dataclasses.replace(method.choose, by_depth=rates))
        chosen = {size: options["learning_rate"] for (_, _, _, size), options in read_choices(other).items()}
        assert chosen == {"1x8": 1e-2, "2x16": 1e-4}

    def test_what_another_process_chose_meanwhile_stays(self, ran: Ran, tmp_path: Path) -> None:
        request = copied(ran, tmp_path)
        page = read_json(request.results / CHOICE_FILE)
        theirs = {**page["trials"][0], "key": "theirs"}
        write_json(request.results / CHOICE_FILE, {**page, "trials": [*page["trials"], theirs]})
        note_trial(request, {**page["trials"][1], "key": "ours"})
        keys = [trial["key"] for trial in read_json(request.results / CHOICE_FILE)["trials"]]
        assert keys == [*(trial["key"] for trial in page["trials"]), "theirs", "ours"]

    def test_the_better_rate_of_each_size_is_used(self, ran: Ran) -> None:
        trials = read_json(ran.request.results / CHOICE_FILE)["trials"]
        for size in ("1x8", "2x16"):
            best = max((t for t in trials if t["size"] == size), key=lambda t: t["score"])
            used = {
                r.facts["options"]["learning_rate"]
                for r in results_in(ran.request.results)
                if (r.method, r.size) == ("separate", size)
            }
            assert used == {best["options"]["learning_rate"]}


class TestAgain:
    def test_nothing_runs_twice(self, ran: Ran, tmp_path: Path) -> None:
        request = copied(ran, tmp_path)
        before = published(request.results)
        outcome = reproduce(request, lambda _: None)
        assert outcome.done == []
        assert len(outcome.found) == 22
        assert published(request.results) == before

    def test_a_changed_option_is_a_new_run_of_that_method_and_of_what_needs_it(
        self, ran: Ran, tmp_path: Path
    ) -> None:
        options = {"strategy": "full", "learning_rate": 5e-3}
        request = with_method(copied(ran, tmp_path, seeds=(0,)), "plain", options=options)
        outcome = reproduce(request, lambda _: None)
        assert [name.split()[0] for name in outcome.done] == ["plain", "taught", "pca", "both"]

    def test_changed_data_are_a_new_run(self, ran: Ran, tmp_path: Path) -> None:
        request = copied(ran, tmp_path, only=("theirs",), seeds=(0,))
        data = tmp_path / "data"
        shutil.copytree(request.data_folder, data)
        lines = (data / "toy.jsonl").read_text().splitlines()
        (data / "toy.jsonl").write_text("\n".join(lines[::-1]) + "\n")
        moved = dataclasses.replace(request, data_folder=str(data))
        assert len(reproduce(moved, lambda _: None).done) == 1

    def test_another_precision_measures_anew_and_trains_nothing(self, ran: Ran, tmp_path: Path) -> None:
        request = copied(ran, tmp_path, only=("plain",), seeds=(0,))
        plan = dataclasses.replace(request.plan, precision="bf16")
        outcome = reproduce(dataclasses.replace(request, plan=plan), lambda _: None)
        assert [name.split()[0] for name in outcome.done] == ["plain"]
        before, after = (
            next(r for r in results_in(folder) if (r.method, r.seed) == ("plain", 0))
            for folder in (ran.request.results, request.results)
        )
        assert after.key != before.key
        assert after.facts["cost"]["train_seconds"] == before.facts["cost"]["train_seconds"]
        for task, grid in before.grids.items():
            assert after.grids[task].mean_over_sizes() == pytest.approx(grid.mean_over_sizes(), abs=5)

    def test_the_place_of_the_data_is_not_part_of_a_run(self, ran: Ran, tmp_path: Path) -> None:
        request = copied(ran, tmp_path)
        shutil.copytree(request.data_folder, tmp_path / "elsewhere")
        moved = dataclasses.replace(request, data_folder=str(tmp_path / "elsewhere"))
        assert reproduce(moved, lambda _: None).done == []

    def test_published_results_are_there_without_models_and_scores(self, ran: Ran, tmp_path: Path) -> None:
        request = copied(ran, tmp_path)
        shutil.rmtree(request.cache)
        assert reproduce(request, lambda _: None).done == []

    def test_a_lost_result_is_run_again_and_is_the_same(self, ran: Ran, tmp_path: Path) -> None:
        request = copied(ran, tmp_path)
        before = tasks_of(results_in(request.results), "ours")
        without(request.results, "ours", 1)
        outcome = reproduce(request, lambda _: None)
        assert outcome.done == ["ours seed 1 tiny toy"]
        assert tasks_of(results_in(request.results), "ours") == before

    def test_results_keep_the_first_resamples_of_each_run(self, ran: Ran) -> None:
        result = next(one for one in results_in(ran.request.results) if one.method == "ours")
        for task, grid in result.grids.items():
            kept = Results(ran.request.results).resampled(result.key, task)
            drawn = np.load(ran.request.cache / "resampled" / f"{result.key}-{task}.npz")
            assert kept.deviations.shape == (PUBLISHED_RESAMPLES, len(grid.sizes))
            np.testing.assert_array_equal(kept.score, drawn["score"])
            expected = drawn["deviations"][:PUBLISHED_RESAMPLES].astype(float)
            np.testing.assert_allclose(kept.deviations, expected, atol=0.005 + 1e-6)

    def test_a_stopped_plan_goes_on_where_it_was(self, tmp_path: Path) -> None:
        request = request_of(tmp_path, seeds=[0])
        stopped: list[str] = []

        def stop_after_four(text: str) -> None:
            stopped.append(text)
            if len(stopped) == 6:
                raise KeyboardInterrupt

        only = dataclasses.replace(request, only=("untouched", "plain", "separate"))
        with pytest.raises(KeyboardInterrupt):
            reproduce(only, stop_after_four)
        assert not list(tmp_path.rglob("*.tmp-*"))
        done = len(results_in(request.results))
        outcome = reproduce(only, lambda _: None)
        assert (len(outcome.found), len(outcome.done)) == (done, 4 - done)

    def test_what_a_method_needs_is_trained_though_not_asked_for(self, tmp_path: Path) -> None:
        request = dataclasses.replace(request_of(tmp_path, seeds=[0]), only=("taught",))
        outcome = reproduce(request, lambda _: None)
        assert [name.split()[0] for name in outcome.done] == ["taught"]

    @pytest.mark.slow
    def test_two_at_a_time_give_the_same_figures(self, ran: Ran, tmp_path: Path) -> None:
        request = copied(ran, tmp_path, jobs=2, only=("plain", "theirs"))
        before = tasks_of(results_in(request.results), "plain", "theirs")
        shutil.rmtree(request.results)
        shutil.rmtree(request.cache)
        outcome = reproduce(request, lambda _: None)
        assert len(outcome.done) == 4
        assert tasks_of(results_in(request.results), "plain", "theirs") == before


class TestMistakes:
    def test_data_that_are_not_there(self, tmp_path: Path) -> None:
        request = request_of(tmp_path)
        (tmp_path / "data" / "toy.jsonl").unlink()
        with pytest.raises(UserError, match=r"toy\.jsonl is not in the data folder"):
            reproduce(request, lambda _: None)

    def test_a_size_that_the_backbone_lacks(self, tmp_path: Path) -> None:
        request = request_of(tmp_path)
        bad = dataclasses.replace(request.plan, sizes=(Size(9, 8),))
        with pytest.raises(UserError, match="too deep"):
            reproduce(dataclasses.replace(request, plan=bad, only=("untouched",)), lambda _: None)

    def test_a_method_that_the_plan_lacks(self, ran: Ran) -> None:
        with pytest.raises(UserError, match="Did you mean 'plain'"):
            reproduce(dataclasses.replace(ran.request, only=("plian",)), lambda _: None)

    def test_a_damaged_result(self, ran: Ran, tmp_path: Path) -> None:
        request = copied(ran, tmp_path)
        for name in ("runs.parquet", "scores.parquet"):
            (request.results / name).write_text("{}")
            with pytest.raises(UserError, match=f"{name} is damaged: delete it and run again"):
                results_in(request.results)
            shutil.copy(ran.request.results / name, request.results / name)


def test_dry_runs_make_up_every_form_of_data(tmp_path: Path) -> None:
    from matryoshka2d.data import read_rows
    from matryoshka2d_reproduction.dry_run import small

    content = {**CONTENT, "data": {}}
    for form in ("triplets", "pairs", "scored", "texts"):
        content["data"][form] = {"files": [f"{form}.jsonl"], "format": form}
    small(plan_of(content, "toy", "toy.yaml"), tmp_path)
    for form in content["data"]:
        assert len(read_rows(tmp_path / "data" / f"{form}.jsonl")) == 24
    content["data"] = {"odd": {"files": ["odd.jsonl"], "format": "odd"}}
    with pytest.raises(UserError, match="the format 'odd'"):
        small(plan_of(content, "toy", "toy.yaml"), tmp_path)
