"""nDCG over the grid equals a plain ranking of all documents, one size at a time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import (
    RetrievalSet,
    ndcg,
    read_retrieval,
    retrieval_grid,
    retrieval_grids,
    retrieval_scores,
)
from matryoshka2d.evaluation.own_documents import own_documents
from matryoshka2d.size import Size
from tests.evaluation.fakes import FakeExits, plain_cosine


def reference_ndcg(scores: dict[str, float], grades: dict[str, int], k: int) -> float:
    """Return trec_eval's ndcg_cut, written out; a tie goes to the document with the greater id."""
    ranking = sorted(scores, key=lambda document: (scores[document], document), reverse=True)[:k]
    gained = sum(max(grades.get(d, 0), 0) / math.log2(rank + 2) for rank, d in enumerate(ranking))
    best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:k]
    ideal = sum(grade / math.log2(rank + 2) for rank, grade in enumerate(best))
    return gained / ideal if ideal else 0.0


def random_data(seed: int, documents: int, queries: int) -> RetrievalSet:
    random = np.random.default_rng(seed)
    corpus = {f"d{i}": f"document {i}" for i in range(documents)}
    asked = {f"q{i}": f"query {i}" for i in range(queries)}
    relevance = {
        q: {f"d{i}": int(random.integers(0, 4)) for i in random.integers(0, documents, 5)} for q in asked
    }
    relevance["q0"]["d0"] = 2
    return RetrievalSet("toy", corpus, asked, relevance)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    documents=st.integers(1, 40),
    queries=st.integers(1, 6),
    k=st.integers(1, 12),
    chunk_size=st.integers(1, 50),
)
def test_every_cell_equals_the_plain_ranking(
    seed: int, documents: int, queries: int, k: int, chunk_size: int
) -> None:
    data, model = random_data(seed, documents, queries), FakeExits(depth=2, width=8)
    found = retrieval_scores(model, data, sizes="1-2x3,8", k=k, chunk_size=chunk_size)["prefix"]
    for size, scores in found.items():
        for query, score in zip(data.judged, scores, strict=True):
            vector = model.vector(data.queries[query], size.layers)
            cosines = {
                d: plain_cosine(vector, model.vector(text, size.layers), size.dims)
                for d, text in data.corpus.items()
            }
            expected = reference_ndcg(cosines, dict(data.relevance[query]), k)
            assert score == pytest.approx(expected, abs=1e-9)


def test_ndcg_by_hand() -> None:
    assert ndcg([3, 0, 2], [3, 2]) == pytest.approx((3 + 2 / 2) / (3 + 2 / math.log2(3)))
    assert ndcg([1] * 20, [1] * 20) == pytest.approx(1.0)
    assert ndcg([0, 0], [1]) == 0.0
    assert ndcg([-1, 1], [1, -1]) == pytest.approx(1 / math.log2(3))


def test_a_tie_goes_to_the_greater_id_whatever_the_chunks() -> None:
    same = np.ones(8)
    corpus = {f"d{i}": f"copy {i}" for i in range(30)}
    model = FakeExits(depth=1, width=8, named={**dict.fromkeys(corpus.values(), same), "a query": same})
    corpus["z"] = "another"
    data = RetrievalSet("toy", corpus, {"q": "a query"}, {"q": {"d0": 1, "d9": 1, "d10": 1, "d29": 1}})
    # d9 d8 d7 d6 d5 d4 d3 d29 d28 d27, as text sorts them
    expected = ndcg([1, 0, 0, 0, 0, 0, 0, 1, 0, 0], [1, 1, 1, 1])
    for chunk_size in (1, 7, 11, 100):
        scores = retrieval_scores(model, data, sizes="1x4,8", chunk_size=chunk_size)["prefix"]
        assert [s.tolist() for s in scores.values()] == [[expected], [expected]]


def test_one_pass_over_queries_and_documents_for_all_cuts() -> None:
    model, data = FakeExits(), random_data(0, 25, 4)
    grids = retrieval_grids(
        model, [data], cuts=["prefix", "pca", "random"], query_prompt="ask: ", corpus_prompt_name="passage"
    )
    assert model.calls[0] == [data.queries[q] for q in data.judged]
    assert sorted(model.calls[1]) == sorted(data.corpus.values())
    assert len(model.calls) == 2
    assert model.heard == ["ask: ", "passage"]
    assert [grid.cut for grid in grids.values()] == ["prefix", "pca", "random"]
    assert len({grid.mean("3x16") for grid in grids.values()}) == 1
    assert len({grid.mean("3x8") for grid in grids.values()}) == 3


def test_pca_fitted_on_other_texts() -> None:
    model, data = FakeExits(), random_data(0, 25, 4)
    own = retrieval_grid(model, [data], sizes="1x4", cut="pca")
    other = retrieval_grid(model, [data], sizes="1x4", cut="pca", fit_texts=[f"o {i}" for i in range(30)])
    assert own.scores != other.scores


def test_the_grid_is_the_mean_over_queries() -> None:
    model, sets = FakeExits(), [random_data(0, 25, 4)]
    grid = retrieval_grid(model, sets, sizes="2x8", k=5, name="toy model")
    scores = retrieval_scores(model, sets[0], sizes="2x8", k=5)["prefix"][Size(2, 8)]
    assert grid.mean("2x8") == pytest.approx(100 * scores.mean())
    assert (grid.metric, grid.name) == ("ndcg@5", "toy model")
    assert grid.details["counts"]["toy"] == {"queries": len(sets[0].judged), "documents": 25}


def test_a_query_that_is_a_document_never_finds_itself_unless_asked() -> None:
    texts = {"a": "first", "b": "second", "c": "third"}
    data = RetrievalSet("toy", texts, texts, {"a": {"b": 1}, "b": {"a": 1}})
    named = {"first": [1.0, 0.0], "second": [1.0, 0.1], "third": [0.0, 1.0]}
    model = FakeExits(depth=1, width=2, named=named)
    kept = retrieval_grid(model, [data], sizes="1x2", exclude_self=False)
    assert kept.mean("1x2") == pytest.approx(100 / math.log2(3))
    assert "notes" not in kept.details
    for chunk_size in (1, 2, 10):
        for exclude_self in (None, True):
            grid = retrieval_grid(
                model, [data], sizes="1x2", exclude_self=exclude_self, chunk_size=chunk_size
            )
            assert grid.mean("1x2") == 100.0
            assert "for 2 of 2 queries the document of their own id" in grid.details["notes"][0]


def test_ids_that_coincide_say_nothing_and_titles_do_not_hide_a_query() -> None:
    corpus = {
        "1": "Vegetarian food: all of us should eat less meat",
        "2": "all of us should  eat less meat",
        "3": "something else",
        "4": "meat",
    }
    asked = {
        "1": "all of us should eat less meat",
        "2": "all of us should eat less meat",
        "3": "meat",
        "4": "a",
    }
    data = RetrievalSet("toy", corpus, asked, {q: {"4": 1} for q in asked})
    assert sorted(own_documents(data)) == ["1", "2"]
    assert sorted(own_documents(data, True)) == ["1", "2", "3", "4"]
    assert not own_documents(data, False)


def write_folder(folder: Path, **changes: Any) -> Path:
    files = {
        "corpus.jsonl": '{"_id": "d1", "title": "Cats", "text": "They purr."}\n{"_id": 2, "text": ""}\n',
        "queries.jsonl": '{"_id": "q1", "text": "what purrs?"}\n{"_id": "q2", "text": "unjudged"}\n',
        "qrels.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\t2\t0\n",
    }
    for name, text in {**files, **{k.replace("__", "."): v for k, v in changes.items()}}.items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def test_a_beir_folder(tmp_path: Path) -> None:
    data = read_retrieval(write_folder(tmp_path))
    assert data.name == tmp_path.name
    assert data.corpus == {"d1": "Cats They purr.", "2": ""}
    assert data.judged == ("q1",)
    assert data.relevance == {"q1": {"d1": 1, "2": 0}}


def test_judgments_elsewhere_and_without_a_header(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, qrels__tsv=None)
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("q1\td1\t1\r\n")
    assert read_retrieval(folder).relevance == {"q1": {"d1": 1}}
    (folder / "other.tsv").write_text("q2\td1\t1\n")
    assert read_retrieval(folder, qrels=folder / "other.tsv", name="x").judged == ("q2",)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"corpus__jsonl": None}, "corpus.jsonl does not exist"),
        ({"corpus__jsonl": "\n"}, "corpus.jsonl is empty"),
        ({"corpus__jsonl": '{"text": "x"}'}, "corpus.jsonl, line 1: expected"),
        ({"corpus__jsonl": '{"_id": 1, "text": "x"}\n' * 2}, "line 2: the id '1' is there twice"),
        ({"queries__jsonl": "oops"}, "queries.jsonl, line 1: not JSON"),
        ({"queries__jsonl": '{"_id": "q1", "text": " "}'}, "the text of 'q1' is empty"),
        ({"qrels__tsv": None}, "no judgments: expected"),
        ({"qrels__tsv": "h\th\ts\nq1\td1\n"}, "qrels.tsv line 2: expected query-id"),
        ({"qrels__tsv": "h\th\ts\nq1\td1\t0.5\n"}, "line 2: expected query-id, corpus-id and a whole number"),
        (
            {"qrels__tsv": "h\th\ts\nq9\td1\t1\n"},
            "none of the 1 judged queries is among the queries, as 'q9'",
        ),
        (
            {"qrels__tsv": "h\th\ts\nq1\td9\t1\n"},
            "none of the 1 relevant documents is in the corpus, as 'd9'",
        ),
        ({"qrels__tsv": "h\th\ts\nq1\td1\t0\n"}, "no query has a relevant document"),
    ],
)
def test_a_wrong_folder_is_one_line(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        read_retrieval(write_folder(tmp_path, **changes))
    assert expected in str(caught.value)


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_retrieval(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cut 'PCA' is not known"):
        retrieval_grid(FakeExits(), [random_data(0, 3, 1)], cut="PCA")


def test_json_lines_may_hold_any_unicode(tmp_path: Path) -> None:
    line = json.dumps({"_id": "d1", "text": "one\u2028two"}, ensure_ascii=False) + "\n"
    folder = write_folder(tmp_path, corpus__jsonl=line, qrels__tsv="q1\td1\t1\n")
    assert read_retrieval(folder).corpus["d1"] == "one\u2028two"
