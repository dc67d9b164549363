"""The API as its clients use it: vectors, sizes, usage, models, keys."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from matryoshka2d.encoder.elastic import ElasticEncoder
from tests import tiny
from tests.serving.conftest import Served

WORDS = tiny.WORDS.split()
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=80).map(" ".join)


def embed(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/embeddings", json={"model": "tiny", **body})


def vectors(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    rows = answer.json()["data"]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    raw = [row["embedding"] for row in rows]
    if isinstance(raw[0], str):
        return np.stack([np.frombuffer(base64.b64decode(one), dtype="<f4") for one in raw])
    return np.array(raw, dtype=np.float64).astype(np.float32)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(TEXT, min_size=1, max_size=30),
    layers=st.integers(1, tiny.LAYERS),
    dims=st.sampled_from([8, 16, 32]),
    by_name=st.booleans(),
)
def test_every_size_is_that_of_encode(
    client: TestClient, encoder: ElasticEncoder, texts: list[str], layers: int, dims: int, by_name: bool
) -> None:
    size = {"model": f"tiny@{layers}x{dims}"} if by_name else {"layers": layers, "dimensions": dims}
    numbers = vectors(embed(client, input=texts, **size))
    answer = embed(client, input=texts, encoding_format="base64", **size)
    np.testing.assert_array_equal(numbers, vectors(answer))
    np.testing.assert_allclose(numbers, encoder.encode(texts, size=f"{layers}x{dims}"), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(numbers, axis=1), 1, atol=1e-6)
    lengths = [len(encoder.tokenizer(text, truncation=True)["input_ids"]) for text in texts]
    assert answer.json()["usage"] == {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}
    assert answer.headers["x-matryoshka-size"] == f"{layers}x{dims}"


def test_the_stock_client_needs_nothing_but_an_address(url: str, encoder: ElasticEncoder) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    for fields, size in [
        ({"model": "tiny"}, "4x32"),
        ({"model": "tiny@2x16"}, "2x16"),
        ({"model": "tiny@2"}, "2x32"),
        ({"model": "tiny", "dimensions": 16, "extra_body": {"layers": 3}}, "3x16"),
        ({"model": "tiny", "encoding_format": "float"}, "4x32"),
    ]:
        made = client.embeddings.create(input=tiny.TEXTS, **fields)  # type: ignore[arg-type]
        found = np.array([one.embedding for one in made.data])
        np.testing.assert_allclose(found, encoder.encode(tiny.TEXTS, size=size), atol=2e-6)
    with pytest.raises(openai.BadRequestError, match="not offered"):
        client.embeddings.create(input="a cat", model="tiny@9x9")
    with pytest.raises(openai.NotFoundError, match="Did you mean 'tiny'"):
        client.embeddings.create(input="a cat", model="tny")
    names = [one.id for one in client.models.list()]
    assert names[0] == "tiny" and "tiny@1x8" in names
    assert client.models.retrieve("tiny@1x8").id == "tiny@1x8"


def test_a_default_size_fills_what_a_request_leaves_open(catalog: Any, client: TestClient) -> None:
    served = catalog.served["tiny"]
    assert str(served.choose(None, None)) == "4x32"
    assert str(served.choose(2, None)) == "2x32"
    assert str(served.choose(None, 8)) == "4x8"


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_a_prompt_goes_before_the_texts(client: TestClient, encoder: ElasticEncoder, kind: str) -> None:
    found = vectors(embed(client, input=tiny.TEXTS, input_type=kind))
    np.testing.assert_allclose(found, encoder.encode(tiny.TEXTS, prompt_name=kind), atol=2e-6)


def test_a_model_without_such_a_prompt_embeds_the_text_alone(client: TestClient) -> None:
    plain, document = (vectors(embed(client, input="a cat", input_type=kind)) for kind in (None, "document"))
    np.testing.assert_array_equal(plain, document)


def test_a_text_that_was_cut_is_counted(client: TestClient) -> None:
    long = " ".join(WORDS * 10)
    answer = embed(client, input=["a cat", long, long])
    assert answer.headers["x-matryoshka-truncated"] == "2"
    assert answer.json()["usage"]["prompt_tokens"] == 4 + 64 + 64
    assert "x-matryoshka-truncated" not in embed(client, input="a cat").headers
    assert "matryoshka2d_truncated_total 2.0" in client.get("/metrics").text


def test_texts_that_may_not_be_cut_are_refused_by_their_places(client: TestClient, served: Served) -> None:
    long = " ".join(WORDS * 10)
    for answer in (
        embed(client, input=["a cat", long], truncate=False),
        embed(served(on_too_long="refuse"), input=["a cat", long]),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "input_too_long")
        assert "input[1] is longer than the model's 64 tokens" in answer.json()["error"]["message"]
    assert embed(served(on_too_long="refuse"), input=long, truncate=True).status_code == 200


def test_token_ids_are_taken_where_they_are_allowed(
    client: TestClient, served: Served, encoder: ElasticEncoder
) -> None:
    ids = [encoder.tokenizer(text)["input_ids"] for text in tiny.TEXTS]
    refused = embed(client, input=ids)
    assert refused.json()["error"]["code"] == "token_ids_refused"
    accepting = served(token_ids="accept")
    np.testing.assert_allclose(vectors(embed(accepting, input=ids)), encoder.encode(tiny.TEXTS), atol=2e-6)
    one = vectors(embed(accepting, input=ids[0]))
    np.testing.assert_allclose(one, encoder.encode(tiny.TEXTS[:1]), atol=2e-6)
    assert "outside of the model's vocabulary" in embed(accepting, input=[[1], [999]]).text
    assert embed(accepting, input=[[5] * 100]).json()["usage"]["prompt_tokens"] == 64


def test_any_size_is_served_where_it_is_asked_for(served: Served, catalog: Any) -> None:
    answer = embed(served(), input="a cat", dimensions=13)
    assert answer.json()["error"]["code"] == "size_not_offered"
    assert "1-4x8,16,32" in answer.json()["error"]["message"]


def test_models_say_what_a_size_costs(client: TestClient) -> None:
    entries = {one["id"]: one for one in client.get("/v1/models").json()["data"]}
    assert entries["tiny@2x16"]["bytes_per_vector"] == 64
    assert entries["tiny@2x16"]["cost_ms"] > 0
    assert client.get("/v1/models/tiny@2x16").json() == entries["tiny@2x16"]
    assert client.get("/v1/models/nobody").status_code == 404
    assert len(entries) == 1 + tiny.LAYERS * 3


def test_keys_open_everything_but_what_probes_need(served: Served) -> None:
    client = served(keys=("right", "other"))
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["error"]["code"] == "invalid_api_key"
    for key in ("Bearer wrong", "right", "Basic right", "Bearer ünïcödé".encode()):
        assert client.get("/v1/models", headers={"Authorization": key}).status_code == 401
    for key in ("Bearer right", "bearer other"):
        assert client.get("/v1/models", headers={"Authorization": key}).status_code == 200
    for path in ("/health", "/ready", "/"):
        assert client.get(path).status_code == 200


def test_an_answer_names_its_request(client: TestClient) -> None:
    assert client.get("/health", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    assert len(client.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"]) == 32


def test_metrics_have_few_labels(client: TestClient) -> None:
    embed(client, input="a cat", layers=2)
    for path in ("/a", "/b", "/v1/models/x", "/v1/models/y"):
        client.get(path)
    page = client.get("/metrics").text
    routes = {
        line.split('route="')[1].split('"')[0]
        for line in page.splitlines()
        if 'requests_total{route="' in line
    }
    assert routes == {"/v1/embeddings", "/v1/models", "other"}
    for name in ("queue_seconds", "embed_seconds", "tokens_total"):
        assert (
            f'matryoshka2d_{name}_count{{layers="2"}} 1.0' in page
            or f'matryoshka2d_{name}{{layers="2"}} 4.0' in page
        )
    assert "matryoshka2d_queue_tokens 0.0" in page
    assert "matryoshka2d_batch_texts_count" in page
    assert 'matryoshka2d_model_bytes{model="tiny"}' in page


def test_pages_of_other_origins_may_call_it_where_that_is_allowed(served: Served) -> None:
    client = served(cors=("https://app.example",), keys=("right",))
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answer = client.options("/v1/embeddings", headers=asked)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    other = client.options("/v1/embeddings", headers={**asked, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_a_proxy_may_put_a_path_before_it(served: Served) -> None:
    client = served(root_path="/embeddings", keys=("right",))
    assert client.get("/embeddings/health").status_code == client.get("/health").status_code == 200
    assert client.get("/embeddings/v1/models").status_code == 401
