"""Retrieval puts before texts what encode_query and encode_document of sentence-transformers put there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.loading import side_prompt
from matryoshka2d.evaluation import RetrievalSet, ndcg, retrieval_grid, retrieval_scores
from matryoshka2d.evaluation.quality import labelled_qualities
from matryoshka2d.evaluation.retrieval import size_pairs
from matryoshka2d.inference.engine_exits import open_exits
from matryoshka2d.size import Size
from tests import tiny
from tests.evaluation.fakes import FakeExits

FULL = Size(tiny.LAYERS, tiny.WIDTH)
CASES: dict[str, tuple[dict[str, str], str | None]] = {
    "both": ({"query": "query : ", "document": "passage : "}, None),
    "query alone": ({"query": "query : "}, None),
    "passage": ({"query": "query : ", "passage": "passage : "}, None),
    "corpus": ({"corpus": "house house : "}, None),
    "default": ({"query": "query : ", "all": "red : "}, "all"),
    "default query": ({"query": "the query : "}, "query"),
    "none": ({}, None),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.sentence_model(tmp_path_factory.mktemp("prompts"))


@pytest.fixture(scope="module")
def data() -> RetrievalSet:
    words = tiny.WORDS.split()
    random = np.random.default_rng(0)
    corpus = {f"d{i}": " ".join(random.permutation(words)[:4]) for i in range(30)}
    queries = {f"q{i}": " ".join(random.permutation(words)[:3]) for i in range(8)}
    relevance = {q: {f"d{i}": 1 for i in random.integers(0, 30, 3)} for q in queries}
    return RetrievalSet("toy", corpus, queries, relevance)


def with_prompts(folder: str, prompts: dict[str, str], default: str | None) -> str:
    """Write the prompts of a case into a model's configuration, as its author would have."""
    path = Path(folder) / "config_sentence_transformers.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "prompts": prompts, "default_prompt_name": default}))
    return folder


def reference(folder: str, data: RetrievalSet, **options: Any) -> list[float]:
    """Return the nDCG of each query by encode_query and encode_document of a stock model."""
    stock = SentenceTransformer(folder, device="cpu")
    names = sorted(data.corpus, reverse=True)
    queries = stock.encode_query([data.queries[q] for q in data.judged], **options)
    documents = stock.encode_document([data.corpus[d] for d in names], **options)
    rankings = np.argsort(
        -np.round(queries.astype(float) @ documents.T.astype(float), 6), axis=1, kind="stable"
    )
    return [
        ndcg([data.relevance[q].get(names[i], 0) for i in row], data.relevance[q].values())
        for q, row in zip(data.judged, rankings, strict=True)
    ]


@pytest.mark.parametrize("case", CASES)
def test_every_way_of_naming_prompts_is_that_of_the_stock_model(
    folder: str, data: RetrievalSet, case: str
) -> None:
    named = with_prompts(folder, *CASES[case])
    encoder = ElasticEncoder(named, device="cpu")
    expected = reference(named, data)
    stock = SentenceTransformer(named, device="cpu")
    for model in (encoder, stock):
        assert retrieval_scores(model, data)["prefix"][FULL] == pytest.approx(expected)
    quality = labelled_qualities(encoder, [data], precisions=["float32"], sizes=[FULL])["float32"]
    assert quality.score(FULL).estimate == pytest.approx(100 * np.mean(expected))


def test_prompts_matter_here_and_reach_every_path(folder: str, data: RetrievalSet) -> None:
    named = with_prompts(folder, *CASES["both"])
    encoder = ElasticEncoder(named, device="cpu")
    expected = reference(named, data)
    plain = reference(with_prompts(folder, {}, None), data)
    assert expected != pytest.approx(plain)
    found = retrieval_scores(open_exits(encoder, "fp32"), data, sizes=[FULL])["prefix"][FULL]
    assert found == pytest.approx(expected)
    for cut in ("pca", "random"):
        turned = retrieval_scores(encoder, data, sizes=[FULL], cuts=[cut])[cut][FULL]
        assert turned == pytest.approx(expected)
    (shallow, deep), *_ = size_pairs(encoder, query_sizes="1x32").items()
    sided = retrieval_scores(encoder, data, query_sizes=[shallow], document_size=deep)["prefix"][shallow]
    queries = encoder.encode_query([data.queries[q] for q in data.judged], size=shallow)
    documents = encoder.encode_document(list(data.corpus.values()), size=deep)
    best = [list(data.corpus)[i] for i in np.argmax(queries @ documents.T, axis=1)]
    at_one = retrieval_scores(encoder, data, query_sizes=[shallow], document_size=deep, k=1)["prefix"]
    assert at_one[shallow].tolist() == [
        float(d in data.relevance[q]) for q, d in zip(data.judged, best, strict=True)
    ]
    assert sided.shape == (len(data.judged),)


def test_a_prompt_by_name_or_as_text_goes_before_the_sides_own(folder: str, data: RetrievalSet) -> None:
    named = with_prompts(folder, {"query": "query : ", "document": "passage : ", "sun": "sun : "}, None)
    encoder = ElasticEncoder(named, device="cpu")
    by_name = {"query_prompt_name": "sun", "corpus_prompt_name": "sun"}
    as_text = {"query_prompt": "sun : ", "corpus_prompt": "sun : "}
    expected = reference(named, data, prompt_name="sun")
    for asked in (by_name, as_text):
        grid = retrieval_grid(encoder, [data], sizes=[FULL], **asked)
        assert grid.mean(FULL) == pytest.approx(100 * np.mean(expected))
        assert grid.details["prompts"] == {"query": "sun : ", "document": "sun : "}
    own = retrieval_grid(encoder, [data], sizes=[FULL]).details["prompts"]
    assert own == {"query": "query : ", "document": "passage : "}
    assert "prompts" not in retrieval_grid(FakeExits(), [data], sizes="1x4").details
    none = retrieval_grid(encoder, [data], sizes=[FULL], query_prompt="", corpus_prompt="")
    assert none.mean(FULL) == pytest.approx(100 * np.mean(reference(with_prompts(folder, {}, None), data)))


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({"passage": "p", "corpus": "c"}, "p"),
        ({"document": "", "passage": "p"}, ""),
        ({"corpus": "c"}, "c"),
        ({"any": "a"}, "a"),
    ],
)
def test_the_document_prompt_is_the_first_of_its_names(prompts: dict[str, str], expected: str) -> None:
    class Model:
        default_prompt_name = "any"

    model = Model()
    model.prompts = prompts  # type: ignore[attr-defined]
    assert side_prompt(model, "document") == expected
