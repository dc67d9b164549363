"""matryoshka2d evaluate and plan on sets as the public ones are, and on models that need a note."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests import tiny
from tests.cli.conftest import Run

SIZES = ("--sizes", "1,4x32")
QUICK = ("--seconds", "0.1", "--engine-precision", "fp32", "--device", "cpu")


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a model that gives every text the same vector."""
    folder = tiny.sentence_model(tmp_path_factory.mktemp("constant"))
    model = SentenceTransformer(folder, device="cpu")
    with torch.no_grad():
        for layer in model[0].model.encoder.layer:
            layer.output.LayerNorm.weight.zero_()
            layer.output.LayerNorm.bias.copy_(torch.linspace(-1, 1, tiny.WIDTH))
    model.save(folder, create_model_card=False)
    return folder


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """Return a BEIR folder with what public ones have: an empty and a missing document, a missing query."""
    folder = tmp_path / "public"
    (folder / "qrels").mkdir(parents=True)
    texts = {"a": "a cat sat on the mat", "b": "the dog runs fast", "c": "", "d": "red house river"}
    asked = {"a": "a cat sat on the mat", "q": "dog runs"}
    for name, rows in (("corpus", texts), ("queries", asked)):
        lines = [json.dumps({"_id": key, "text": text}) + "\n" for key, text in rows.items()]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    judged = "a\tb\t1.0\nq\tb\t2.0\nq\tgone\t1.0\nlost\tb\t1.0\n"
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    (folder / "qrels" / "dev.tsv").write_text("q\td\t1\n")
    return folder


def test_a_public_set_is_measured_with_notes(run: Run, model: str, public: Path) -> None:
    outcome = run("evaluate", model, "--retrieval", public, *SIZES, "--json")
    assert outcome.code == 0, outcome.err
    notes = outcome.json["details"]["notes"]
    assert [line.removeprefix("note: ").removesuffix(".") for line in outcome.err.splitlines()] == notes
    for part, note in zip(("'lost'", "'gone'", "of their own id"), notes, strict=True):
        assert part in note
    assert len(notes) == 3
    assert outcome.json["details"]["counts"]["public"] == {"queries": 2, "documents": 4}
    assert outcome.json["details"]["prompts"] == {"query": "query : ", "document": ""}
    assert run("evaluate", model, "--retrieval", public, *SIZES, "-q").err == ""
    inside = run("evaluate", model, "--retrieval", public, *SIZES, "--include-self", "--json").json
    assert len(inside["details"]["notes"]) == 2
    plan = run("plan", model, "--retrieval", public, *SIZES, *QUICK, "--json")
    assert plan.code == 0, plan.err
    assert set(notes) <= set(plan.json["notes"])


def test_judgments_of_another_split(run: Run, refused: Callable[..., str], model: str, public: Path) -> None:
    outcome = run("evaluate", model, "--retrieval", public, *SIZES, "--qrels", "dev", "--json")
    assert outcome.json["details"]["counts"]["public"]["queries"] == 1
    assert run("plan", model, "--retrieval", public, "--qrels", "dev", *SIZES, *QUICK, "-q").code == 0
    said = refused("evaluate", model, "--retrieval", public, "--qrels", "train")
    assert "no judgments called 'train'" in said
    assert "qrels/dev.tsv" in said


def test_prompts_are_chosen_for_a_side_or_for_every_text(
    run: Run, refused: Callable[..., str], model: str, beir: Path, sts: Path
) -> None:
    def prompts(*options: object) -> object:
        outcome = run("evaluate", model, "--retrieval", beir, "--sizes", "4x32", "--json", *options)
        assert outcome.code == 0, outcome.err
        return outcome.json["details"]["prompts"]

    assert prompts() == {"query": "query : ", "document": ""}
    assert prompts("--prompt-name", "query") == {"query": "query : ", "document": "query : "}
    assert prompts("--document-prompt-name", "query") == {"query": "query : ", "document": "query : "}
    assert prompts("--prompt-name", "query", "--query-prompt-name", "document")["query"] == ""  # type: ignore[index]
    said = refused("evaluate", model, "--retrieval", beir, "--query-prompt-name", "quary")
    assert "Did you mean 'query'?" in said
    for option in (("--exclude-self",), ("--qrels", "dev"), ("--query-prompt-name", "query")):
        assert "of retrieval alone" in refused("evaluate", model, "--sts", sts, *option)


def test_a_collapsed_model_has_no_score(
    run: Run, refused: Callable[..., str], constant: str, sts: Path, beir: Path, tmp_path: Path
) -> None:
    for data in (("--sts", sts), ("--retrieval", beir)):
        outcome = run("evaluate", constant, *data, *SIZES, "--json")
        assert outcome.code == 0, outcome.err
        assert {cell for row in outcome.json["grid"].values() for cell in row.values()} == {None}
        assert "similarity does not vary at 1x32, 4x32: all texts look alike" in outcome.err
        plan = run("plan", constant, *data, *SIZES, *QUICK, "--json")
        assert plan.code == 3
        assert plan.json["size"] is None
        assert any("does not vary at 2 of 2 sizes" in note for note in plan.json["notes"])
    shown = run("evaluate", constant, "--sts", sts, *SIZES, "--output", tmp_path / "report", "-q")
    assert shown.code == 0, shown.err
    assert "nan" not in shown.out
    assert "nan" not in (tmp_path / "report" / "grid.csv").read_text()
    many = tmp_path / "many.txt"
    many.write_text("\n".join(f"a {word} sat" for word in tiny.WORDS.split()) + "\n")
    for measure in ("similarity", "recall"):
        said = refused("plan", constant, "--texts", many, "--fidelity", measure, *QUICK, "-q")
        assert "texts look alike to the full size" in said
