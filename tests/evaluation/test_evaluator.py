"""evaluate: what the command measures, as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from matryoshka2d import ElasticEncoder, Evaluation, UserError, evaluate
from matryoshka2d.encoder.loading import check_prompt
from matryoshka2d.evaluation import read_sts, sts_grid
from matryoshka2d.evaluation.report import write_folder
from tests import tiny

ROWS = [
    ("a cat", "a kitten", 4.5),
    ("a cat", "a train", 0.5),
    ("a dog", "a puppy", 5),
    ("rain", "a dog", 1),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.sentence_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sts") / "pairs.jsonl"
    rows = [{"sentence1": left, "sentence2": right, "score": score} for left, right, score in ROWS]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "text": text} for i, text in enumerate(["a cat", "the rain", "a dog"])]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)), encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "a kitten"}', encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def both(model: str, pairs: Path, beir: Path) -> Evaluation:
    return evaluate(model, sts=pairs, retrieval=[beir], sizes="1,2x8", cuts=["pca"], device="cpu")


def test_a_grid_for_every_task_and_cut_prefix_first(both: Evaluation) -> None:
    assert {task: list(by_cut) for task, by_cut in both.grids.items()} == {
        "sts": ["prefix", "pca"],
        "retrieval": ["prefix", "pca"],
    }
    assert both.grid is both.grids["sts"]["prefix"]


def test_it_is_the_grid_of_the_parts(both: Evaluation, model: str, pairs: Path) -> None:
    alone = sts_grid(ElasticEncoder(model, device="cpu"), read_sts(pairs), sizes="1,2x8")
    assert both.grid.values() == pytest.approx(alone.values())


def test_a_loaded_model_gives_the_same(both: Evaluation, model: str, pairs: Path) -> None:
    loaded = evaluate(ElasticEncoder(model, device="cpu"), sts=[pairs], sizes="1,2x8")
    assert loaded.grid.values() == pytest.approx(both.grid.values())


def test_the_dict_has_the_first_grid_at_the_top(both: Evaluation) -> None:
    value = json.loads(json.dumps(both.to_dict()))
    assert value["cuts"].keys() == {"pca"}
    assert value["retrieval"].keys() == {"prefix", "pca"}
    assert {key: value[key] for key in both.grid.to_dict()} == json.loads(json.dumps(both.grid.to_dict()))


def test_exits_may_come_from_elsewhere(model: str, pairs: Path) -> None:
    asked: list[Any] = []

    def same(loaded: Any) -> Any:
        asked.append(loaded)
        return loaded

    evaluate(model, sts=pairs, sizes="1x8", device="cpu", exits=same)
    assert isinstance(asked[0], ElasticEncoder)


def test_quality_is_measured_for_the_index_precisions_that_are_named(model: str, pairs: Path) -> None:
    found = evaluate(model, sts=pairs, sizes="1x8", device="cpu", index_precision="int8")
    assert found.qualities.keys() == {"int8"}
    assert found.qualities["int8"].precision == "int8"
    # The full size is measured beside what was asked for: shares are shares of it.
    assert len(found.grid.sizes) == 2


def test_the_folder_has_files_of_every_task(both: Evaluation, tmp_path: Path) -> None:
    write_folder(tmp_path / "report", both)
    names = {path.name for path in (tmp_path / "report").iterdir()}
    stems = ("grid{}.csv", "heatmap{}.png", "report{}.html")
    assert names == {"grid.json", *(stem.format(end) for stem in stems for end in ("", "-retrieval"))}
    with pytest.raises(UserError, match="exists already"):
        write_folder(tmp_path / "report", both)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "nothing to evaluate on"),
        ({"sts": "no-such.tsv"}, "no-such.tsv"),
        ({"sts": "no-such.tsv", "cuts": ["pcb"]}, "cut 'pcb' is not known"),
        ({"sts": "no-such.tsv", "index_precision": "int9"}, "index precision 'int9' is not known.*int8"),
        ({"sts": "no-such.tsv", "save": True}, "not a folder of yours"),
        ({"sts": "no-such.tsv", "exclude_self": True}, "of retrieval alone"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        evaluate("no-such-model", **asked)


def test_a_prompt_that_the_model_lacks() -> None:
    check_prompt(["query"], None)
    with pytest.raises(UserError, match="no prompt 'qury': expected one of query"):
        check_prompt(["query"], "qury")
