"""Scores are those of trec_eval, as pytrec_eval runs it: ties, what is missing, grades of any sign."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import RetrievalSet, read_retrieval, retrieval_grid, retrieval_scores
from matryoshka2d.size import Size
from tests.evaluation.fakes import FakeExits

IDS = st.text("abAB01é-_", min_size=1, max_size=4)


def trec_eval(data: RetrievalSet, run: dict[str, dict[str, float]], k: int) -> dict[str, float]:
    """Return the ndcg_cut of every query of a run that is judged."""
    qrels = {query: dict(grades) for query, grades in data.relevance.items() if grades}
    found = pytrec_eval.RelevanceEvaluator(qrels, {f"ndcg_cut.{k}"}).evaluate(run)
    return {query: values[f"ndcg_cut_{k}"] for query, values in found.items()}


@st.composite
def cases(draw: st.DrawFn) -> tuple[RetrievalSet, dict[str, dict[str, float]]]:
    """Draw a set with few different similarities, so that most documents tie, and the run that they make."""
    documents = draw(st.lists(IDS, min_size=2, max_size=12, unique=True))
    queries = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    missing = ["gone document"], ["gone query"]
    grades = st.dictionaries(st.sampled_from([*documents, *missing[0]]), st.integers(-1, 3), max_size=8)
    relevance = {query: draw(grades) for query in [*queries, *missing[1]]}
    relevance[queries[0]][documents[0]] = 1
    steps = {d: draw(st.integers(0, 3)) for d in documents}
    steps[documents[0]], steps[documents[1]] = 0, 1  # at least two that differ
    data = RetrievalSet(
        "toy", {d: f"{steps[d]} {d}" for d in documents}, {q: f"q {q}" for q in queries}, relevance
    )
    return data, {q: {d: -float(step) for d, step in steps.items()} for q in queries}


class Stepped(FakeExits):
    """A model in which a document stands as far from every query as its first word says."""

    def vector(self, text: str, layer: int) -> Any:
        angle = 0.0 if text.startswith("q ") else 0.3 * int(text.split(maxsplit=1)[0])
        return np.array([math.cos(angle), math.sin(angle)], dtype=np.float32)


@settings(max_examples=150, deadline=None)
@given(case=cases(), k=st.integers(1, 15), chunk_size=st.integers(1, 13))
def test_every_query_scores_as_in_trec_eval(
    case: tuple[RetrievalSet, dict[str, dict[str, float]]], k: int, chunk_size: int
) -> None:
    data, run = case
    expected = trec_eval(data, run, k)
    model = Stepped(depth=1, width=2)
    scores = retrieval_scores(model, data, k=k, sizes="1x2", exclude_self=False, chunk_size=chunk_size)
    assert dict(zip(data.judged, scores["prefix"][Size(1, 2)], strict=True)) == pytest.approx(expected)
    mean = retrieval_grid(model, [data], sizes="1x2", k=k, exclude_self=False).mean("1x2")
    assert mean == pytest.approx(100 * np.mean(list(expected.values())))


def test_a_query_judged_0_alone_counts_0() -> None:
    data = RetrievalSet(
        "toy", {"a": "0 a", "b": "1 b"}, {"p": "q p", "z": "q z"}, {"p": {"a": 1}, "z": {"b": 0}}
    )
    assert data.judged == ("p", "z")
    assert retrieval_grid(Stepped(1, 2), [data], sizes="1x2").mean("1x2") == pytest.approx(50)


# --- public sets as they are ----------------------------------------------------------------------------


def folder(root: Path, qrels: dict[str, str], corpus: dict[str, str] | None = None) -> Path:
    """Write a BEIR folder whose document d1 answers q1."""
    texts = {"d1": "0 one", "d2": "1 two", "d3": ""} if corpus is None else corpus
    for name, rows in (("corpus", texts), ("queries", {"q1": "q one", "q2": "q two"})):
        lines = [json.dumps({"_id": key, "text": text}) + "\n" for key, text in rows.items()]
        (root / f"{name}.jsonl").write_text("".join(lines))
    for name, text in qrels.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.mark.parametrize("place", ["qrels.tsv", "qrels/test.tsv"])
@pytest.mark.parametrize("header", ["", HEADER])
@pytest.mark.parametrize("grade", ["1", "1.0", "1.00"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_judgments_may_be_written_in_any_usual_way(
    tmp_path: Path, place: str, header: str, grade: str, end: str
) -> None:
    text = (header + f"q1\td1\t{grade}\nq1\td2\t0\n").replace("\n", end)
    data = read_retrieval(folder(tmp_path, {place: text}))
    assert data.relevance == {"q1": {"d1": 1, "d2": 0}}
    assert data.notes == ()


def test_a_grade_that_is_not_whole_is_one_line_even_in_the_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1: expected query-id, corpus-id and a whole number"):
        read_retrieval(folder(tmp_path, {"qrels.tsv": "q1\td1\t0.5\n"}))


def test_what_is_missing_is_noted_and_the_document_stays_in_the_ideal(tmp_path: Path) -> None:
    data = read_retrieval(folder(tmp_path, {"qrels.tsv": HEADER + "q1\td1\t1\nq1\tgone\t1\nq9\td1\t1\n"}))
    assert data.judged == ("q1",)
    grid = retrieval_grid(FakeExits(named={"": [1.0] * 16}), [data], sizes="3x16")
    query, document = grid.details["notes"]
    assert "1 of 2 judged queries are not among the queries and are left out, as 'q9'" in query
    assert "1 judged documents are not in the corpus and cannot be found, as 'gone'" in document
    best = retrieval_scores(Stepped(1, 2), RetrievalSet("t", {"d1": "0 a", "d2": "1 b"}, *_of(data)))
    assert best["prefix"][Size(1, 2)] == pytest.approx([1 / (1 + 1 / math.log2(3))])


def _of(data: RetrievalSet) -> tuple[Any, Any]:
    return data.queries, data.relevance


def test_another_split_is_found_by_its_name_and_taken_if_it_is_the_only_one(tmp_path: Path) -> None:
    root = folder(tmp_path, {"qrels/dev.tsv": "q1\td1\t1\n"})
    for qrels in ("dev", "qrels/dev.tsv", root / "qrels" / "dev.tsv"):
        assert read_retrieval(root, qrels=qrels).notes == ()
    alone = read_retrieval(root)
    assert alone.relevance == {"q1": {"d1": 1}}
    assert alone.notes == (f"set {root.name}: there are no test judgments, qrels/dev.tsv is taken",)
    with pytest.raises(UserError, match=r"no judgments called 'train'.*there are qrels/dev\.tsv"):
        read_retrieval(root, qrels="train")
    (root / "qrels_train.tsv").write_text("q2\td2\t1\n")
    assert read_retrieval(root, qrels="train").judged == ("q2",)
    with pytest.raises(UserError, match=r"with --qrels: qrels/dev\.tsv, qrels_train\.tsv"):
        read_retrieval(root)
