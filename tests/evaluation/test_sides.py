"""Queries of one size over documents of another equal the plain ranking of vectors cut by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import cos_sim

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import (
    Grid,
    PlainExits,
    RetrievalSet,
    ndcg,
    retrieval_grid,
    retrieval_grids,
    retrieval_scores,
)
from matryoshka2d.evaluation.report import render_report
from matryoshka2d.evaluation.report.color_scale import full_title
from matryoshka2d.evaluation.retrieval import check_sides, size_pairs
from matryoshka2d.size import Size
from tests import tiny
from tests.evaluation.fakes import FakeExits, FakeSentenceTransformer
from tests.evaluation.test_retrieval import random_data


def brute_force(
    model: FakeExits | ElasticEncoder, data: RetrievalSet, query: Size, document: Size, k: int
) -> list[float]:
    """Return the nDCG of each query from one matrix of cosines, in plain numpy."""
    texts = [data.queries[q] for q in data.judged], list(data.corpus.values())
    sides = [
        model.exits(side, layers=[size.layers])[size.layers][:, : size.dims].astype(np.float64)
        for side, size in zip(texts, (query, document), strict=True)
    ]
    left, right = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    names = list(data.corpus)
    rankings = np.argsort(-(left @ right.T), axis=1, kind="stable")[:, :k]
    return [
        ndcg([data.relevance[q].get(names[i], 0) for i in ranking], data.relevance[q].values(), k)
        for q, ranking in zip(data.judged, rankings, strict=True)
    ]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    documents=st.integers(1, 40),
    dims=st.integers(1, 8),
    depth=st.integers(1, 3),
    k=st.integers(1, 12),
    chunk_size=st.integers(1, 50),
)
def test_every_query_size_equals_brute_force(
    seed: int, documents: int, dims: int, depth: int, k: int, chunk_size: int
) -> None:
    data, model = random_data(seed, documents, 5), FakeExits(depth=3, width=8)
    document = Size(depth, dims)
    found = retrieval_scores(
        model, data, query_sizes=f"1-3x{dims}", document_size=document, k=k, chunk_size=chunk_size
    )["prefix"]
    assert list(found) == [Size(n, dims) for n in (1, 2, 3)]
    for query, scores in found.items():
        assert scores.tolist() == pytest.approx(brute_force(model, data, query, document, k), abs=1e-9)


def test_where_both_sides_are_one_size_it_is_the_ordinary_path() -> None:
    data, model = random_data(3, 30, 6), FakeExits(depth=3, width=16)
    ordinary = retrieval_scores(model, data, sizes="1-3x8,16")["prefix"]
    for size in ordinary:
        found = retrieval_scores(model, data, query_sizes=[size], document_size=size)["prefix"]
        np.testing.assert_array_equal(found[size], ordinary[size])


def test_queries_are_encoded_once_and_documents_once_at_their_exit_alone() -> None:
    class Watched(FakeExits):
        def exits(
            self, texts: Sequence[str], *, layers: Sequence[int] | None = None, **options: Any
        ) -> dict[int, NDArray[np.float32]]:
            asked.append(list(layers or []))
            return super().exits(texts, layers=layers, **options)

    asked: list[list[int]] = []
    model, data = Watched(), random_data(0, 25, 4)
    retrieval_scores(model, data, query_sizes="1,3x8", document_size="2x8", cuts=["prefix", "pca"])
    assert asked == [[1, 3], [2]]
    assert model.calls == [[data.queries[q] for q in data.judged], list(data.corpus.values())]


def test_a_turn_is_the_same_for_both_sides() -> None:
    # At full width no cut may change an angle, so all three must rank alike.
    model, data = FakeExits(), random_data(1, 25, 4)
    grids = retrieval_grids(
        model, [data], query_sizes="1-3x4,16", document_size=None, cuts=["prefix", "pca", "random"]
    )
    for size in ("1x16", "2x16", "3x16"):
        assert len({round(grid.mean(size), 9) for grid in grids.values()}) == 1
    assert len({grid.mean("1x4") for grid in grids.values()}) > 1


@pytest.fixture
def data() -> RetrievalSet:
    """Return a set whose texts a tiny model tells apart, with three relevant documents a query."""
    random = np.random.default_rng(0)
    words = tiny.WORDS.split()
    corpus = {f"d{i}": " ".join(random.permutation(words)[: 4 + i % 7]) for i in range(40)}
    queries = {f"q{i}": " ".join(random.permutation(words)[:5]) for i in range(8)}
    relevance = {q: {f"d{i}": 1 for i in random.permutation(40)[:3]} for q in queries}
    return RetrievalSet("toy", corpus, queries, relevance)


def test_every_exit_has_its_own_head_as_its_stock_model_has(tmp_path: Path, data: RetrievalSet) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    options = {"query_sizes": "1-4x16", "document_size": "3x16", "k": 5}
    plain = retrieval_scores(encoder, data, **options)["prefix"]
    for number, head in enumerate(encoder.add_heads().parameters(), start=1):
        head.data += 0.3 * torch.randn(head.shape, generator=torch.Generator().manual_seed(number))
    grid = retrieval_grid(encoder, [data], **options)
    assert grid.values() != {size: 100 * scores.mean() for size, scores in plain.items()}
    judge = InformationRetrievalEvaluator(
        dict(data.queries),
        dict(data.corpus),
        {query: set(grades) for query, grades in data.relevance.items()},
        ndcg_at_k=[5],
        score_functions={"cosine": cos_sim},
    )
    index, by_hand = encoder.truncate("3x16"), Size(3, 16)
    for size, score in grid.values().items():
        found = judge.compute_all_metrics(encoder.truncate(size), corpus_model=index)["cosine"]["ndcg@k"][5]
        assert score == pytest.approx(100 * found, abs=1e-6)
        assert score == pytest.approx(100 * np.mean(brute_force(encoder, data, size, by_hand, 5)), abs=1e-6)


def test_what_is_not_said_is_full_depth_or_every_depth() -> None:
    model = FakeExits(depth=3, width=16)
    pairs = size_pairs(model, query_sizes="1-2x4,8")
    assert pairs == {Size(n, d): Size(3, d) for n in (1, 2) for d in (4, 8)}
    assert size_pairs(model, document_size="2x5") == {Size(n, 5): Size(2, 5) for n in (1, 2, 3)}
    assert size_pairs(model, "1x4,3x8") == {Size(1, 4): Size(1, 4), Size(3, 8): Size(3, 8)}


def test_the_grid_says_which_documents(data: RetrievalSet) -> None:
    grid = retrieval_grid(FakeExits(), [data], query_sizes="1-2x8", document_size="3x8")
    assert grid.details["document_sizes"] == ["3x8"]
    assert Grid.from_json(grid.to_json()).details == grid.details
    assert full_title(grid).endswith("queries over documents at 3x8")
    assert "queries over documents at 3x8" in render_report(grid)
    other = replace(data, name="other")
    several = retrieval_grid(FakeExits(), [data], query_sizes="1x4,8")
    assert several.details["document_sizes"] == ["3x4", "3x8"]
    passing = retrieval_grid(FakeExits(), [data, other], query_sizes=iter(["1x4", "1x8"]))
    assert passing.scores["toy"] == several.scores["toy"]
    assert "document_sizes" not in retrieval_grid(FakeExits(), [data], sizes="1x8").details


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        (
            {"query_sizes": "2x64", "document_size": "6x128"},
            "queries of size 2x64 cannot meet documents of size 6x128: both need the same dims, take "
            "queries of 128 dims, as in 2x128",
        ),
        ({"query_sizes": "1-6x128,64", "document_size": "6x128"}, "queries of size 1x64 cannot meet"),
        ({"sizes": "1x8", "query_sizes": "1x8"}, "sizes are those of queries and documents alike"),
        ({"sizes": "1x8", "document_size": "1x8"}, "sizes are those of queries and documents alike"),
        ({"document_size": "6x64,128"}, "'6x64,128' is not a size"),
        ({"query_sizes": "six"}, "is not a number or a range"),
    ],
)
def test_what_cannot_be_meant_is_one_line_with_and_without_a_model(sides: dict[str, str], said: str) -> None:
    model = FakeExits(depth=6, width=128)
    for check in (lambda: check_sides(**sides), lambda: size_pairs(model, **sides)):
        with pytest.raises(UserError, match=re.escape(said)):
            check()


def test_a_model_that_lacks_a_side(data: RetrievalSet) -> None:
    with pytest.raises(UserError, match="size 9x8 is too deep"):
        retrieval_scores(FakeExits(), data, query_sizes="1x8", document_size="9x8")
    with pytest.raises(UserError, match="size 1x99 is too wide"):
        retrieval_scores(FakeExits(), data, query_sizes="1x99")
    plain = PlainExits(FakeSentenceTransformer(), depth=2)
    with pytest.raises(UserError, match="has no exit 1: load it as ElasticEncoder"):
        retrieval_scores(plain, data, query_sizes="1x8", document_size="2x8")
    assert list(retrieval_scores(plain, data, document_size="2x8")["prefix"]) == [Size(2, 8)]
