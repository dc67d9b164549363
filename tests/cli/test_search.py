"""index, search, tune and recut, as a newcomer runs them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.conftest import Run, sentence

ROWS = 60


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(0)
    rows = [
        {"id": f"d{i}", "text": f"{sentence(rng)} {sentence(rng)}", "even": i % 2 == 0} for i in range(ROWS)
    ]
    path = tmp_path_factory.mktemp("docs") / "docs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def index(run: Run, model: str, docs: Path, tmp_path: Path) -> str:
    uri = f"faiss:{tmp_path / 'index'}"
    built = run("index", model, docs, "--to", uri, "--prefix", 8, "--json", "--precision", "fp32")
    assert built.code == 0, built.err
    assert (built.json["documents"], built.json["added"], built.json["size"]) == (ROWS, ROWS, "4x32")
    return uri


def ids(outcome: object) -> list[str]:
    return [one["id"] for one in outcome.json["results"]]  # type: ignore[attr-defined]


def test_what_is_indexed_is_found(run: Run, index: str, docs: Path) -> None:
    text = json.loads(docs.read_text().splitlines()[7])["text"]
    found = run("search", index, text, "--k", 10, "--oversample", 6, "--json")
    exact = run("search", index, text, "--k", 10, "--exact", "--json")
    assert ids(found) == ids(exact)
    assert len(ids(found)) == 10
    best = found.json["results"][0]
    assert set(best) == {"id", "score", "first_score", "text", "fields"}
    assert exact.json["results"][0]["first_score"] is None
    assert found.json["milliseconds"]["prefix"] > 0
    filtered = run("search", index, text, "--where", "even=true", "--json")
    assert all(one["fields"]["even"] for one in filtered.json["results"])
    shown = run("search", index, text, "--k", 2)
    assert "milliseconds" in shown.out and ids(found)[0] in shown.out


def test_recut_beside_and_in_place_needs_no_model(run: Run, index: str, no_model_is_loaded: None) -> None:
    other = f"{index}-16"
    made = run("recut", index, "--dims", 16, "--to", other, "--json")
    assert (made.json["index"], made.json["size"], made.json["prefix"]) == (other, "4x16", 8)
    assert "first stage over 4 dims as int8" in run("recut", other, "--prefix", 4, "--codes", "int8").out


def test_a_cut_index_is_searched_by_the_same_model(run: Run, index: str) -> None:
    run("recut", index, "--dims", 16)
    assert len(ids(run("search", index, "red cat", "--json"))) == 10


def test_run_again_it_adds_and_deletes(run: Run, model: str, index: str, docs: Path, tmp_path: Path) -> None:
    again = run("index", model, docs, "--to", index, "--prefix", 8, "--json", "--precision", "fp32").json
    assert (again["added"], again["found"]) == (0, ROWS)
    (tmp_path / "ids.txt").write_text("d1\nd2\n")
    gone = run("index", model, tmp_path / "ids.txt", "--to", index, "--delete", "--json").json
    assert gone == {"index": index, "deleted": 2, "documents": ROWS - 2}


def test_tune_writes_its_choice(run: Run, index: str, texts: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.txt"
    rng = random.Random(1)
    queries.write_text("".join(f"{sentence(rng)}\n" for _ in range(30)))
    out = tmp_path / "tuned"
    done = run("tune", index, "--queries", queries, "--recall", 0.8, "--layers", 4, "--output", out, "-q")
    assert done.code == 0, done.err
    written = json.loads((out / "tune.json").read_text())
    assert (out / "front.png").stat().st_size > 1000
    assert written["chosen"]["recall"] >= 0.8
    shown = run("tune", index, "--queries", queries, "--recall", 0.8, "--layers", 4, "--no-save")
    assert "exact search:" in shown.out and "measuring: prefix 8" in shown.err


def test_numbers_are_those_of_the_python_call(run: Run, index: str, model: str) -> None:
    from matryoshka2d import open_engine, open_index

    engine = open_engine(model, "torch", "fp32")
    with open_index(index, engine) as opened:
        (answer,) = opened.search("red cat")
    found = run("search", index, "red cat", "--json").json["results"]
    assert [one["id"] for one in found] == [hit.id for hit in answer.hits]
    assert [one["score"] for one in found] == pytest.approx([hit.score for hit in answer.hits], abs=1e-6)


def test_a_plan_leaves_time_for_the_search(
    run: Run, refused: Callable[..., str], index: str, model: str, tmp_path: Path
) -> None:
    queries = tmp_path / "queries.txt"
    words = ["plan", model, "--texts", queries, "--sizes", "4x32", "--seconds", "0.1", "--index", index]
    assert "run matryoshka2d tune on it first" in refused(*words, "--max-latency", "10s")
    rng = random.Random(1)
    queries.write_text("".join(f"{sentence(rng)}\n" for _ in range(20)))
    assert run("tune", index, "--queries", queries, "--recall", 0.5, "--layers", 4, "-q").code == 0
    assert "cannot be kept with it" in refused(*words, "--max-latency", "0.000001ms")
    planned = run(*words, "--max-latency", "10s", "--json")
    assert planned.code == 0, planned.err
    budget = planned.json["budget"]
    assert budget["documents"] == ROWS
    assert 9 < budget["max_latency"] < 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("index {model} {docs} --to nowhere:x", "is no address of an index"),
        ("index {model} {docs} --to faiss:new --runner spark", "no runner is called 'spark'"),
        ("index {model} none.jsonl --to faiss:new", "there is no"),
        ("search faiss:new red", "there is no index in new"),
        ("search {index} red --where even", "'even' is not a filter"),
        ("search {index} {empty}", "the query is empty"),
        ("recut {index}", "nothing to recut"),
        ("tune {index} --queries none.txt", "there is no"),
        ("encode {model} {docs} out --shard 3", "'3' is no part of the shards"),
        ("encode {model} {docs} out --shard 3/2", "cannot be: expected 1/2 to 2/2"),
        ("encode {model} {docs} out.npy --shard 1/2", "name a folder as output"),
    ],
)
def test_a_mistake_is_one_line_before_a_model_is_loaded(
    refused: Callable[..., str],
    run: Run,
    index: str,
    docs: Path,
    model: str,
    words: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    request.getfixturevalue("no_model_is_loaded")
    values = {"index": index, "docs": docs, "model": model, "empty": " "}
    assert said in refused(*(word.format(**values) for word in words.split(" ") if word))


def test_a_wrong_model_is_refused_by_the_command(
    refused: Callable[..., str], index: str, docs: Path, tmp_path: Path
) -> None:
    other = tiny.sentence_model(tmp_path / "other", "roberta")
    assert "gives other vectors than the index holds" in refused("search", index, "red", "--model", other)
    assert "gives other vectors" in refused(
        "index", other, docs, "--to", index, "--prefix", 8, "--query-prompt", "query : "
    )
