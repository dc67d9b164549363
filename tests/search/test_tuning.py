"""`tune` finds the cheapest way that reaches a recall, and writes it into the index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from matryoshka2d.errors import UserError
from matryoshka2d.search import index_documents, open_index
from matryoshka2d.search.index import Index
from matryoshka2d.search.queries import read_queries
from matryoshka2d.search.tuning import tune
from tests.search.conftest import Place
from tests.search.fakes import WORDS, FakeEngine, documents

ROWS = 400


def queries(count: int, seed: int = 5) -> dict[str, str]:
    rng = np.random.default_rng(seed)
    return {f"q{i}": " ".join(rng.choice(WORDS, size=5)) for i in range(count)}


@pytest.fixture
def index(place: Place, tmp_path: Path) -> Index:
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"id": one.id, "text": one.text}) + "\n" for one in documents(ROWS)))
    uri, engine = place(), FakeEngine(spread=0.1)
    index_documents(engine, path, uri, prefix=8)
    return open_index(uri, engine)


def recall_of(index: Index, texts: list[str]) -> float:
    found, truth = index.search(texts), index.search(texts, exact=True, query_size="3x48")
    return float(
        np.mean(
            [
                len({hit.id for hit in one.hits} & {hit.id for hit in own.hits}) / 10
                for one, own in zip(found, truth, strict=True)
            ]
        )
    )


def test_the_choice_reaches_its_target_and_is_what_the_index_does(index: Index) -> None:
    tuned = tune(index, queries(60), recall=0.9)
    chosen = tuned.chosen
    assert chosen is not None
    assert chosen.recall - 2 * chosen.spread >= 0.9
    assert not [one for one in tuned.settings if one.milliseconds < chosen.milliseconds and one.reaches(0.9)]
    front = tuned.front
    assert [one.recall for one in front] == sorted(one.recall for one in front)
    assert {one.prefix for one in tuned.settings} == {8, 16}
    meta = index.meta
    assert (meta.prefix, meta.choice.oversample, meta.choice.effort) == (
        chosen.prefix,
        chosen.oversample,
        chosen.effort,
    )
    assert meta.choice.tuned["recall"] == chosen.recall
    # What was measured is what a search by default finds, on queries that nobody chose on.
    assert recall_of(index, list(queries(60).values())) == pytest.approx(
        (chosen.recall + chosen.held_out) / 2
    )
    assert recall_of(index, list(queries(80, seed=6).values())) >= 0.85


def test_a_recall_out_of_reach_is_said_and_nothing_is_written(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matryoshka2d.search.tuning.OVERSAMPLES", (1,))
    before = index.meta
    tuned = tune(index, queries(40), recall=1.0, prefixes=[8], layers=[3])
    assert tuned.chosen is None
    assert index.meta == before


@pytest.mark.parametrize("place", ["faiss"], indirect=True)
def test_judgments_give_ndcg(index: Index) -> None:
    asked = {name: documents(ROWS)[i].text for i, name in enumerate(queries(30))}
    qrels = {name: {f"d{i}": 1} for i, name in enumerate(asked)}
    tuned = tune(index, asked, recall=0.9, qrels=qrels, save=False)
    assert tuned.exact_ndcg is not None and tuned.exact_ndcg > 0.9
    assert tuned.chosen is not None and tuned.chosen.ndcg is not None
    assert tuned.chosen.ndcg <= tuned.exact_ndcg + 0.05
    assert index.meta.choice.tuned == {}
    assert tuned.figure().axes


@pytest.mark.parametrize("place", ["faiss"], indirect=True)
@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (19, {}, "19 queries are too few"),
        (20, {"recall": 0}, "a recall of 0 cannot be reached"),
        (20, {"layers": [4]}, "queries of 4 layers cannot be: use 1 to 3"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(
    index: Index, count: int, options: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tune(index, queries(count), **options)  # type: ignore[arg-type]


def test_queries_of_a_beir_folder_are_the_judged_ones(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "x"}\n')
    (tmp_path / "queries.jsonl").write_text("".join(f'{{"_id": "q{i}", "text": "t{i}"}}\n' for i in range(6)))
    (tmp_path / "qrels.tsv").write_text("".join(f"q{i}\ta\t1\n" for i in range(5)))
    texts, qrels = read_queries(tmp_path)
    assert list(texts) == [f"q{i}" for i in range(5)]
    assert qrels is not None and qrels["q1"] == {"a": 1}
    assert list(read_queries(tmp_path, 2)[0]) == ["q0", "q2"]
