"""Searching an index through the server: what is found, what is refused, and a store that fails."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from matryoshka2d.cli import main
from matryoshka2d.errors import UserError
from matryoshka2d.search import open_index
from matryoshka2d.search.stores import open_store
from matryoshka2d.serving import searching
from matryoshka2d.serving.catalog import Catalog, load_catalog
from matryoshka2d.serving.searching import ServedIndex, match_index
from tests import tiny
from tests.serving.conftest import EXACT, Patched, Running, Served
from tests.serving.test_bad_input import error_of
from tests.serving.test_load import until

Start = Callable[..., Running]


def search(client: Any, **body: Any) -> Any:
    return client.post("/v1/search", json={"query": "a red cat", **body})


def results(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    (one,) = answer.json()["data"]
    return one["results"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "oversample": 1, "prefix": 8},
        {"k": 7, "exact": True},
        {"query_size": "2x32", "prefix": 24},
        {"where": {"even": True, "year": [2, 4.0, 5, "60"]}},
        {"k": 100},
    ],
)
def test_it_finds_what_the_index_finds(
    served: Served, index: ServedIndex, documents: str, catalog: Catalog, options: dict[str, Any]
) -> None:
    client = served(index)
    with open_index(documents, catalog.served["tiny"].engine) as opened:
        asked = {"k": 10, **options}
        if "where" in options:
            asked["where"] = {"even": True, "year": [2, 4, 60]}
        (expected,) = opened.search("a red cat", **asked)
        answer = search(client, **options)
        assert [hit["id"] for hit in results(answer)] == [hit.id for hit in expected.hits]
        for found, hit in zip(results(answer), expected.hits, strict=True):
            assert found["text"] == hit.text and found["fields"] == hit.fields
            assert found["score"] == pytest.approx(hit.score, abs=2e-6)
            assert found["first_score"] == pytest.approx(hit.first_score, abs=2e-6)
    body = answer.json()
    assert body["approximate"] == ("query_size" in options)
    assert body["query_size"] == options.get("query_size", "4x32") == answer.headers["x-matryoshka-size"]
    stages = ["exact"] if options.get("exact") else ["prefix", "rescore"]
    assert list(body["milliseconds"]) == ["queue", "tokenize", "embed", "wait", *stages, "documents"]
    assert f"{stages[0]};dur=" in answer.headers["server-timing"]


def test_several_queries_are_answered_in_their_order(served: Served, index: ServedIndex) -> None:
    client = served(index)
    queries = ["a red cat", "the river", "a red cat"]
    data = search(client, query=queries).json()["data"]
    assert [one["index"] for one in data] == [0, 1, 2]
    assert [one["results"] for one in data] == [results(search(client, query=query)) for query in queries]


@pytest.mark.parametrize(
    ("body", "said", "param"),
    [
        ({"query": None}, "query is null", "query"),
        ({"query": []}, "query is an empty list", "query"),
        ({"query": ["a", ""]}, "query[1] is empty", "query"),
        ({"query": ["a", 3]}, "query[1] is a number", "query"),
        ({"query": ["a"] * 33}, "at most 32 a request", "query"),
        ({"size": "1x32"}, "'size' is not a field", "size"),
        ({"query_sise": "1x32"}, "Did you mean 'query_size'?", "query_sise"),
        ({"oversampel": 3}, "Did you mean 'oversample'?", "oversampel"),
        ({"k": 0}, "k is 0: expected greater than or equal to 1", "k"),
        ({"k": 101}, "k is 101: expected less than or equal to 100", "k"),
        ({"k": 1.5}, "k is 1.5", "k"),
        ({"oversample": 1000}, "oversample is 1000", "oversample"),
        ({"prefix": 33}, "use 1 to 32 dims", "prefix"),
        ({"query_size": "1x8"}, "both need the same dims", "query_size"),
        ({"query_size": "9x32"}, "are deeper than the documents", "query_size"),
        ({"query_size": "much"}, "much", "query_size"),
        ({"exact": 1}, "exact is 1", "exact"),
        ({"where": "a=b"}, 'where is "a=b"', "where"),
        ({"where": {"a": None}}, "where is null", "where"),
        ({"where": {"a": []}}, "where is []", "where"),
        ({"where": {'a"b': 1}}, "no field's name has quotes", "where"),
        ({"query": "cat " * 100, "truncate": False}, "query[0] is longer than", "query"),
    ],
)
def test_a_mistake_is_named(
    served: Served, index: ServedIndex, body: dict[str, Any], said: str, param: str
) -> None:
    client = served(index)
    answer = search(client, **body)
    assert answer.status_code == 400
    found = error_of(answer)
    assert said in found["message"]
    assert found["param"] == param
    assert search(client).status_code == 200


def test_a_depth_of_another_space_is_refused(served: Served, index: ServedIndex) -> None:
    # The tiny model's first layers are nobody's: what the index knows of them decides.
    client = served(ServedIndex(index.index, index.served, (4,), index.documents))
    answer = search(client, query_size="1x32")
    assert (answer.status_code, error_of(answer)["code"]) == (400, "size_not_offered")
    assert "expected 4x32" in error_of(answer)["message"]


def test_a_server_without_an_index_says_how_to_have_one(client: TestClient) -> None:
    answer = search(client)
    assert (answer.status_code, error_of(answer)["code"]) == (404, "no_index")
    assert "--index URI" in error_of(answer)["message"]
    assert "index" not in client.get("/v1/models").json()["data"][0]
    assert "/v1/search" not in client.get("/openapi.json").json()["paths"]


def test_it_stands_behind_the_same_gate(served: Served, index: ServedIndex) -> None:
    client = served(index, keys=("right",), max_body=1000)
    head = {"Authorization": "Bearer right", "x-request-id": "mine"}
    assert search(client).status_code == 401
    answer = client.post("/v1/search", json={"query": "a cat"}, headers=head)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine")
    large = client.post("/v1/search", json={"query": "a cat " * 400}, headers=head)
    assert (large.status_code, error_of(large)["code"]) == (413, "body_too_large")
    page = client.get("/metrics", headers=head).text
    assert 'matryoshka2d_requests_total{route="/v1/search",status="200"} 1.0' in page
    assert 'matryoshka2d_search_seconds_count{stage="rescore"} 1.0' in page
    assert 'matryoshka2d_embed_seconds_count{layers="4"} 1.0' in page
    (entry,) = [one for one in client.get("/v1/models", headers=head).json()["data"] if "index" in one]
    assert entry["id"] == "tiny"
    assert entry == client.get("/v1/models/tiny", headers=head).json()
    assert entry["index"] == {
        "documents": 80,
        "size": "4x32",
        "query_layers": list(index.depths),
        "prefix": 16,
        "any_prefix": True,
        "oversample": 10,
    }


@pytest.mark.parametrize(
    "error", [UserError("PostgreSQL says: gone"), RuntimeError("a bug"), OSError(5, "I/O")]
)
def test_a_store_that_fails_is_503_and_the_server_serves_on(
    served: Served, index: ServedIndex, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    client = served(index)
    before = results(search(client))

    def fail(*_: object) -> None:
        raise error

    for name in ("search", "documents"):
        with monkeypatch.context() as patch:
            patch.setattr(index.index.store, name, fail)
            answer = search(client)
            assert (answer.status_code, error_of(answer)["code"]) == (503, "index_failed")
            assert answer.headers["retry-after"] == "5"
            assert "PostgreSQL" not in answer.text
            assert client.post("/v1/embeddings", json={"model": "tiny", "input": "a cat"}).status_code == 200
            assert client.get("/ready").status_code == 200
        assert results(search(client)) == before


def test_searches_that_hang_hold_up_nothing_else(
    running: Start, index: ServedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_WAITING", 3)
    monkeypatch.setattr(searching, "_LAST", 0.1)
    go_on = threading.Event()
    whole = index.index.store.search
    monkeypatch.setattr(index.index.store, "search", lambda *a: go_on.wait(30) and whole(*a))
    server = running(index, deadline=3.0)
    with httpx.Client(base_url=server.url, timeout=30) as client, ThreadPoolExecutor(12) as callers:
        waiting = [callers.submit(search, client) for _ in range(12)]
        until(lambda: server.state.active == 5)
        for _ in range(20):
            begun = time.perf_counter()
            embedded = client.post("/v1/embeddings", json={"model": "tiny", "input": "a cat"})
            assert embedded.status_code == 200
            assert time.perf_counter() - begun < 0.5
        answers = [one.result() for one in waiting]
        found = sorted((one.status_code, error_of(one)["code"]) for one in answers)
        assert found == [(429, "overloaded")] * 7 + [(503, "deadline_exceeded")] * 5
        assert all("retry-after" in one.headers for one in answers)
        # Those that hang still have their places: what comes now waits for its time.
        assert search(client).status_code == 503
        go_on.set()
        until(lambda: search(client).status_code == 200)


def test_a_query_without_a_vector_is_named(served: Served, index: ServedIndex, runner: Patched) -> None:
    client = served(index)
    runner.spoilt = tiny.tokenizer()("river", add_special_tokens=False)["input_ids"][0]
    answer = search(client, query=["a cat", "a river"])
    assert (answer.status_code, error_of(answer)["code"]) == (500, "no_finite_vector")
    assert "for query[1]" in error_of(answer)["message"]


def test_documents_may_hold_what_json_hardly_takes(
    served: Served, index: ServedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = index.index.store.documents

    def odd(ids: Any) -> Any:
        found = whole(ids)
        for one in found.values():
            one.fields["number"] = 10**30
        return found

    monkeypatch.setattr(index.index.store, "documents", odd)
    assert json.loads(search(served(index)).text)["data"][0]["results"][0]["fields"]["number"] == 10**30


# --- starting -------------------------------------------------------------------------------------------


def test_an_index_of_another_model_is_refused(documents: str, tmp_path: Path, catalog: Catalog) -> None:
    other = load_catalog([f"other={tiny.sentence_model(tmp_path, hidden_size=48)}"], EXACT)
    with pytest.raises(UserError, match=r"^--index faiss:.* with its own model"):
        match_index(open_store(documents), documents, other)
    both = Catalog([*other.served.values(), *catalog.served.values()])
    assert match_index(open_store(documents), documents, both).served.name == "tiny"
    twice = Catalog(
        [*other.served.values(), *load_catalog([f"next={tmp_path / 'model'}"], EXACT).served.values()]
    )
    with pytest.raises(UserError, match="none of the models other, next made it"):
        match_index(open_store(documents), documents, twice)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nowhere:x", "is no address of an index"),
        ("faiss:nothing-here", "there is no index in nothing-here"),
        ("postgresql://localhost:1/nowhere?table=docs", "is the server running"),
        ("qdrant:http://localhost:1/docs", "Qdrant at docs says"),
    ],
)
def test_an_index_that_cannot_be_opened_is_one_line(
    model: str, uri: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["matryoshka2d", "serve", model, "--port", "0", "--index", uri])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_an_index_of_another_model_ends_the_start(
    documents: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny.sentence_model(tmp_path, initializer_range=0.5)
    monkeypatch.setattr("sys.argv", ["matryoshka2d", "serve", other, "--port", "0", "--index", documents])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "other vectors than the index holds" in line
