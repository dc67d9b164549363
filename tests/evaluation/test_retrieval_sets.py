"""SQuAD and XSum as retrieval, from small files of their published forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from matryoshka2d import UserError
from matryoshka2d.evaluation import read_retrieval, read_squad, read_xsum, retrieval_grid
from tests.evaluation.fakes import FakeExits

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Rivers",
            "paragraphs": [
                {
                    "context": "The Rhine flows north.",
                    "qas": [
                        {
                            "id": "a",
                            "question": "Where does the Rhine flow?",
                            "answers": [],
                            "is_impossible": False,
                        },
                        {"id": "b", "question": "Why is it red?", "answers": [], "is_impossible": True},
                    ],
                },
                {"context": "The Nile is long.", "qas": [{"id": "c", "question": "How long is the Nile?"}]},
            ],
        }
    ],
}
XSUM = [
    {"document": "A long article about a cat.", "summary": "A cat did it.", "id": "1"},
    {"document": "A long article about the sea.", "summary": "The sea rose.", "id": "2"},
    {"document": "A long article about a cat.", "summary": "It was a cat.", "id": "3"},
]


def write(path: Path, rows: Any) -> Path:
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_question_finds_its_paragraph_and_impossible_ones_are_left_out(tmp_path: Path) -> None:
    data = read_squad(write(tmp_path / "dev.json", SQUAD))
    assert data.name == "dev"
    assert data.queries == {"a": "Where does the Rhine flow?", "c": "How long is the Nile?"}
    assert data.corpus == {"p0": "The Rhine flows north.", "p1": "The Nile is long."}
    assert data.relevance == {"a": {"p0": 1}, "c": {"p1": 1}}


def test_squad_as_hubs_keep_it_is_the_same_set(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "title": "Rivers", "context": "The Rhine flows north.", "question": "Where to?"},
        {"id": "c", "title": "Rivers", "context": "The Rhine flows north.", "question": "Which way?"},
    ]
    data = read_retrieval(write(tmp_path / "squad.jsonl", rows))
    assert data.corpus == {"p0": "The Rhine flows north."}
    assert data.relevance == {"a": {"p0": 1}, "c": {"p0": 1}}


def test_a_summary_finds_its_article_and_an_article_is_one_document(tmp_path: Path) -> None:
    data = read_xsum(write(tmp_path / "xsum.jsonl", XSUM))
    assert data.corpus == {"a0": "A long article about a cat.", "a1": "A long article about the sea."}
    assert data.relevance == {"1": {"a0": 1}, "2": {"a1": 1}, "3": {"a0": 1}}


def test_what_a_file_holds_is_seen_and_it_is_evaluated_like_any_set(tmp_path: Path) -> None:
    squad = read_retrieval(write(tmp_path / "dev.json", SQUAD), name="squad")
    xsum = read_retrieval(write(tmp_path / "xsum.jsonl", XSUM))
    named = {text: [1.0, 0.0] * 8 for text in ("It was a cat.", "A long article about a cat.")}
    grid = retrieval_grid(FakeExits(named=named), [squad, xsum], sizes="3x16")
    assert grid.sets == ("squad", "xsum")
    assert grid.score("3x16", "xsum") > 0


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("a.json", {"data": [{"paragraph": []}]}, "is not SQuAD"),
        ("a.json", {"data": []}, "has no question"),
        ("a.jsonl", [{"question": "q"}], "line 1: expected the texts question and context"),
        ("a.jsonl", [{"id": 1, "question": "q", "context": "c"}] * 2, "line 2: the id '1' is there twice"),
        ("a.jsonl", [{"document": "d"}], "line 1: expected the texts document and summary"),
        ("a.jsonl", [{"id": 1, "document": "d", "summary": "s"}] * 2, "line 2: the id '1' is there twice"),
        ("a.jsonl", [], "is empty"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path: Path, name: str, rows: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read_retrieval(write(tmp_path / name, rows))
    assert str(tmp_path / name) in str(error.value)


def test_a_file_that_is_not_json(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text("{oops")
        with pytest.raises(UserError, match=name):
            read_retrieval(tmp_path / name)
