"""Plans: what a YAML file means, and every mistake in one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from matryoshka2d import Size, UserError
from matryoshka2d_reproduction.plan import plan_of, read_plan
from matryoshka2d_reproduction.runs import layers, needed, runs_of, selected, trials_of

PLANS = Path(__file__).parents[1] / "plans"
CONTENT: dict[str, Any] = {
    "sizes": "1-2x8,16",
    "seeds": [0, 1],
    "backbones": {"tiny": {"model": "somewhere"}},
    "data": {"nli": {"files": ["nli.jsonl"], "limit": 12}},
    "sts": ["sts"],
    "dev": {"sts": "sts"},
    "defaults": {"batch_size": 4},
    "methods": {
        "untouched": {"kind": "untouched"},
        "plain": {"strategy": "full", "learning_rate": "2e-5"},
        "separate": {
            "kind": "separate",
            "sizes": "1x8 2x16",
            "choose": {"learning_rate": ["1e-4", 3e-4], "limit": 8},
        },
        "taught": {"strategy": "all-sizes", "objective": "distillation", "teacher": "plain"},
        "both": {"kind": "average", "of": ["plain", "taught"], "weights": [1, 3]},
        "pca": {"kind": "cut", "of": "plain", "cut": "pca"},
    },
    "compare": [["taught", "plain"]],
}


def plan(**changes: Any) -> Any:
    content = copy.deepcopy(CONTENT)
    content.update(changes)
    return plan_of(content, "toy", "toy.yaml")


def with_method(name: str, **row: Any) -> Any:
    methods = copy.deepcopy(CONTENT["methods"])
    methods[name] = row
    return plan(methods=methods)


def alone(rates: dict[Any, Any]) -> Any:
    return with_method("alone", kind="separate", sizes="1-2x8", choose={"learning_rate": rates})


def test_training_options_stand_beside_what_the_harness_reads() -> None:
    separate = plan().methods["separate"]
    assert separate.sizes == (Size(1, 8), Size(2, 16))
    assert separate.choose.trials() == [{"learning_rate": 1e-4}, {"learning_rate": 3e-4}]
    assert plan().methods["plain"].options == {"strategy": "full", "learning_rate": 2e-5}


def test_a_separate_model_may_try_other_values_at_each_depth() -> None:
    choose = {"learning_rate": {"1-2": ["1e-3", 3e-4], 3: 1e-4}, "warmup": [0, 0.1]}
    method = with_method("alone", kind="separate", sizes="1-3x8", choose=choose).methods["alone"]
    tried = [{trial["learning_rate"] for trial in method.choose.trials(size)} for size in method.sizes]
    assert tried == [{1e-3, 3e-4}, {1e-3, 3e-4}, {1e-4}]
    assert len(method.choose.trials(Size(1, 8))) == 4
    assert method.choose.options["learning_rate"] == (1e-3, 3e-4, 1e-4)


def test_methods_follow_what_they_need() -> None:
    order = [[method.name for method in layer] for layer in layers(plan())]
    assert order == [["untouched", "plain", "separate"], ["taught", "pca"], ["both"]]
    assert [method.name for method in selected(plan(), ["both", "plain"])] == ["plain", "both"]
    assert needed(plan(), [plan().methods["both"]]) == {"both", "plain", "taught"}


def test_a_default_names_no_model_for_what_is_not_trained() -> None:
    toy = plan(defaults={"teacher": "untouched", "objective": "distillation", "batch_size": 4})
    assert toy.references(toy.methods["plain"]) == ("untouched",)
    assert toy.references(toy.methods["untouched"]) == ()
    assert toy.references(toy.methods["both"]) == ("plain", "taught")
    assert toy.references(toy.methods["taught"]) == ("plain",)


def test_runs_are_seeds_by_sizes_and_what_is_untrained_is_measured_once() -> None:
    toy = plan()
    chosen = {("separate", "tiny", "nli", "2x16"): {"learning_rate": 3e-4}}
    got = runs_of(toy, toy.methods["separate"], chosen)
    assert [(str(run.size), run.seed) for run in got] == [("1x8", 0), ("2x16", 0), ("1x8", 1), ("2x16", 1)]
    assert [dict(run.options) for run in got[:2]] == [{}, {"learning_rate": 3e-4}]
    assert [run.seed for run in runs_of(toy, toy.methods["plain"], {}, [1])] == [1]
    (untouched,) = runs_of(toy, toy.methods["untouched"], {})
    assert untouched.which == ("untouched", "tiny", "", 0, "")
    assert len(trials_of(toy, toy.methods["separate"])) == 4


@pytest.mark.parametrize("file", sorted(PLANS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_plans_of_the_repository_are_whole(file: Path) -> None:
    assert read_plan(file).methods


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: plan(sizes=None), "the plan has no sizes"),
        (lambda: plan(methods={}), "the plan has no methods"),
        (lambda: plan(size="1x8"), r"plan has no 'size'.*Did you mean 'sizes'"),
        (lambda: plan(sts=None), "nothing to evaluate on"),
        (lambda: plan(seeds="x"), "expected whole numbers"),
        (lambda: plan(compare=[["taught"]]), "pairs of methods"),
        (lambda: plan(compare=[["taught", "plane"]]), "Did you mean 'plain'"),
        (lambda: plan(pictures=["taught", "plane"]), "pictures: no method is called 'plane'"),
        (lambda: plan(precision="fp61"), "precision fp61: expected one of fp32, bf16"),
        (lambda: plan(data={"nli": {}}), "nli has no files"),
        (lambda: plan(data={"nli": {"file": "x"}}), "Did you mean 'files'"),
        (lambda: plan(methods=[1]), "expected names and values"),
        (lambda: with_method("x", kind="trian"), "no kind is called 'trian'.*Did you mean 'train'"),
        (lambda: with_method("x", learning_rat=1), r"unknown option 'learning_rat'"),
        (lambda: with_method("x", seed=3), "'seed' is set by the plan"),
        (lambda: with_method("x", kind="separate"), "needs 'sizes'"),
        (lambda: with_method("x", kind="cut", of="plain", cut="pcs"), "Did you mean 'pca'"),
        (
            lambda: with_method("x", kind="cut", of=["plain", "taught"], cut="pca"),
            "cut and is of one method, not 2",
        ),
        (lambda: with_method("x", kind="average", of=["plain"], weights=[1, 2]), "2 weights for 1"),
        (lambda: with_method("x", kind="average", of=["separate"]), "has no model of its own"),
        (lambda: with_method("x", kind="untouched", seed=1), "takes no options"),
        (lambda: with_method("x", teacher="x"), "wait for each other in a circle"),
        (lambda: with_method("self", strategy="full"), "name of a teacher"),
        (lambda: with_method("x", choose={"limit": 3}), "choose names no option"),
        (lambda: alone({"1": 1e-3}), "choose has no learning_rate for 2 layers"),
        (lambda: alone({"1-2": 1e-3, 2: 1e-3}), "names 2 layers twice"),
        (lambda: alone({"deep": 1e-3}), "learning_rate: deep' is not a number or a range such as 1-6"),
        (
            lambda: with_method("x", choose={"learning_rate": {1: 1e-3}}),
            "values for each depth, which only separate models have",
        ),
        (lambda: plan(dev=None), "has no dev"),
        (lambda: plan(claims=[{"text": "t", "method": "plain"}]), "a claim has no other"),
        (
            lambda: plan(claims=[{"text": "t", "method": "plain", "other": "pca", "verdict": "best"}]),
            "no verdict is called 'best'",
        ),
        (lambda: plan(backbones={"b": {"distill": {"data": "nli"}}}), "distilled but not pruned"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        make()
    assert "toy.yaml" in str(error.value)


def test_a_file_that_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_plan(tmp_path / "no.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match="is not YAML"):
        read_plan(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="expected names and values"):
        read_plan(tmp_path / "list.yaml")
