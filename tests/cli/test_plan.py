"""matryoshka2d plan: a real (tiny) model, labels, texts, what is kept in the model, and mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run

QUICK = ("--seconds", "0.1", "--engine-precision", "fp32", "--device", "cpu")
SIZES = ("--sizes", "1,4x8,32")


@pytest.fixture
def own(model: str, tmp_path: Path) -> Path:
    """Return a copy of the model that may be written into."""
    return Path(shutil.copytree(model, tmp_path / "own"))


@pytest.fixture
def many_texts(tmp_path: Path) -> Path:
    from tests import tiny

    words = tiny.WORDS.split()
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"{a} {b} sat" for a in words[:8] for b in words[8:]) + "\n")
    return path


def test_a_plan_from_labels(run: Run, model: str, sts: Path) -> None:
    outcome = run("plan", model, "--sts", sts, *SIZES, *QUICK, "--max-latency", "10s", "--json")
    assert outcome.code == 0, outcome.err
    plan = outcome.json
    assert plan["size"] in {"1x8", "1x32", "4x8", "4x32"}
    assert plan["costs"]["engine"] == "torch"
    assert plan["costs"]["timed on"].startswith("the STS sentences")
    assert set(plan["costs"]["depths"]) == {"1", "4"}
    assert plan["quality"]["units"] == {"sts12": 12, "stsb-de": 12}
    assert any("24 pairs are too few to tell" in note for note in plan["notes"])
    assert all(row["latency_p50"] > 0 and row["memory"] is None for row in plan["sizes"])


def test_nothing_satisfies_is_code_3_and_still_an_answer(run: Run, model: str, sts: Path) -> None:
    outcome = run("plan", model, "--sts", sts, *SIZES, *QUICK, "--max-latency", "1us", "-q")
    assert outcome.code == 3
    assert outcome.out.startswith("no size satisfies this: the nearest are ")
    assert "What relaxing would buy" in outcome.out
    assert outcome.err == ""


def test_texts_without_labels_measure_fidelity(run: Run, model: str, many_texts: Path) -> None:
    for measure in ("similarity", "recall"):
        outcome = run(
            "plan",
            model,
            "--texts",
            many_texts,
            "--fidelity",
            measure,
            *SIZES,
            *QUICK,
            "--min-quality",
            "100%",
            "-q",
        )
        assert outcome.code == 0, outcome.err
        assert "fidelity, not quality" in " ".join(outcome.out.split())
        assert outcome.out.startswith("take 4x32: 100.0% [100.0%, 100.0%] of agreement with the full size")


def test_quality_is_kept_in_the_model_and_read_from_it(run: Run, own: Path, sts: Path) -> None:
    outcome = run("evaluate", own, "--sts", sts, *SIZES, "--save", "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads((own / "elastic.json").read_text())
    assert set(record["quality"]["by precision"]) == {"float32", "int8", "binary"}
    for precision in record["quality"]["by precision"]:
        plan = run("plan", own, *QUICK, "--precision", precision, "--documents", "1k", "--json").json
        assert [row["size"] for row in plan["sizes"]] == ["1x8", "1x32", "4x8", "4x32"]
        assert plan["quality"]["precision"] == precision
        assert plan["quality"]["split"] == "test"
    assert plan["costs"]["timed on"].startswith("sentences of this package")
    scores = {size: row["mean"] for size, row in outcome.json["grid"].items()}
    kept = {row["size"]: row["score"] for row in run("plan", own, *QUICK, "--json").json["sizes"]}
    assert kept == pytest.approx(scores, abs=1e-3)
    some = run("plan", own, *QUICK, "--sizes", "1x8", "--json").json
    assert [row["size"] for row in some["sizes"]] == ["1x8", "4x32"]


def test_plan_keeps_what_it_measured_if_asked_to(run: Run, own: Path, sts: Path) -> None:
    without = run("plan", own, "--sts", sts, *SIZES, *QUICK)
    assert "--save keeps it" in without.err
    assert not (own / "elastic.json").exists()
    assert run("plan", own, "--sts", sts, *SIZES, *QUICK, "--save").code == 0
    assert run("plan", own, *QUICK, "--precision", "binary").code == 0


def test_retrieval_quality_is_kept_too(run: Run, own: Path, beir: Path) -> None:
    assert run("evaluate", own, "--retrieval", beir, *SIZES, "--save", "-q").code == 0
    plan = run("plan", own, *QUICK, "--precision", "int8", "--json").json
    assert (plan["quality"]["metric"], plan["quality"]["of"]) == ("ndcg@10", "queries")
    assert run("plan", own, "--retrieval", beir, *SIZES, *QUICK, "--json").code == 0


def test_kept_quality_is_stale_once_the_weights_change(
    run: Run, refused: Callable[..., str], own: Path, sts: Path
) -> None:
    from safetensors.torch import load_file, save_file

    assert run("evaluate", own, "--sts", sts, *SIZES, "--save", "-q").code == 0
    weights = load_file(own / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + 0.01
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    assert "of other weights" in refused("plan", own, *QUICK)


def test_files_are_written_whole(run: Run, model: str, sts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("plan", model, "--sts", sts, *SIZES, *QUICK, "--output", out).code == 0
    assert {file.name for file in out.iterdir()} == {"plan.json", "plan.html", "front.png"}
    assert json.loads((out / "plan.json").read_text())["size"]


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_for_each_depth(run: Run, model: str, sts: Path) -> None:
    limits = ("--max-memory", "64GB", "--json")
    outcome = run("plan", model, "--sts", sts, "--sizes", "1,4x32", *QUICK, *limits)
    assert outcome.code == 0, outcome.err
    peaks = [row["memory"] for row in outcome.json["sizes"]]
    assert len(peaks) == 2
    # A Python process with torch in it: more than 100 MB, less than 5 GB.
    assert all(1e8 < peak < 5e9 for peak in peaks)


# --- mistakes -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_model_is_loaded")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-latency", "2"], "max latency is '2': expected a time with its unit, as 2ms"),
        (["--max-latency", "fast"], "expected a time"),
        (["--min-quality", "150%"], "up to 100%"),
        (["--max-index", "4GB"], "documents"),
        (["--max-index", "4", "--documents", "20M"], "expected bytes with their unit"),
        (["--documents", "lots"], "as 20M"),
        (["--precision", "int4"], "Did you mean 'int8'?"),
        (["--sizes", "big"], "not a grid of sizes"),
        (["--texts", "nowhere.txt"], "no file nowhere.txt"),
        (["--sts", "nowhere"], "no file nowhere"),
        (["--time-on", "nowhere.txt"], "no file nowhere.txt"),
        (["--sts", "STS", "--texts", "TEXTS"], "one kind of data only"),
        (["--save"], "nothing to save"),
        (["--fidelity", "recal", "--texts", "TEXTS"], "Did you mean 'recall'?"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    refused: Callable[..., str], model: str, sts: Path, texts: Path, arguments: list[str], words: str
) -> None:
    named = {"STS": sts, "TEXTS": texts}
    assert words in refused("plan", model, *(named.get(one, one) for one in arguments))


def test_a_model_without_quality_says_how_to_give_it(refused: Callable[..., str], model: str) -> None:
    said = refused("plan", model, *QUICK)
    assert "carries no quality and none is given" in said
    assert "--sts FOLDER" in said and "--texts FILE" in said and "evaluate MODEL --sts FOLDER --save" in said


def test_a_precision_whose_quality_was_not_kept(
    run: Run, refused: Callable[..., str], own: Path, sts: Path
) -> None:
    assert run("evaluate", own, "--sts", sts, *SIZES, "--save", "-q").code == 0
    record = json.loads((own / "elastic.json").read_text())
    del record["quality"]["by precision"]["binary"]
    (own / "elastic.json").write_text(json.dumps(record))
    assert "no quality of binary vectors" in refused("plan", own, *QUICK, "--precision", "binary")
    assert "2x8 was not measured" in refused("plan", own, *QUICK, "--sizes", "2x8")


def test_more_mistakes(
    refused: Callable[..., str], model: str, sts: Path, texts: Path, tmp_path: Path
) -> None:
    assert "too deep" in refused("plan", model, "--sts", sts, "--sizes", "9x8", *QUICK)
    assert "expected at least 8" in refused("plan", model, "--texts", texts, *QUICK)
    assert "'torc'" in refused("plan", model, "--sts", sts, *QUICK, "--engine", "torc", "-q")
    assert "exists already" in refused("plan", model, "--sts", sts, "--output", texts.parent)
    assert "'half'" in refused("plan", model, "--sts", sts, "--engine-precision", "half", "-q")
    assert "not a folder of yours" in refused("evaluate", "default", "--sts", sts, "--save")
    assert "does not exist" in refused("plan", str(tmp_path / "none"), "--sts", sts)
    assert not (tmp_path / "out").exists()


def test_quality_of_a_model_without_exits_is_not_kept(
    refused: Callable[..., str], unknown_model: str, sts: Path
) -> None:
    assert "full depth only: leave out --save" in refused(
        "evaluate", unknown_model, "--sts", sts, "--save", "-q"
    )
    assert not (Path(unknown_model) / "elastic.json").exists()
