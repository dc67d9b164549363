"""Whatever is sent, the answer is clear, of one shape, and the server serves on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from matryoshka2d.errors import UserError
from matryoshka2d.serving.options import ServeOptions
from tests import tiny
from tests.serving.conftest import Served

GOOD: dict[str, Any] = {"model": "tiny", "input": "a cat"}


def error_of(answer: Any) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize(
    ("body", "said", "param"),
    [
        (b"", "the request has no body", None),
        (b"{", "the body is not JSON", None),
        (b"\xff\xfe", "the body is not JSON", None),
        (b'{"model": "tiny", "input": "\\ud800"}', "the body is not JSON", None),
        (b'{"model": "tiny", "input": NaN}', "the body is not JSON", None),
        (b"[" * 5000, "the body is not JSON", None),
        (b"[]", "the body is a list: expected an object", None),
        (b"null", "the body is null", None),
        ({}, "input is missing", "input"),
        ({"input": "a"}, "model is missing", "model"),
        ({**GOOD, "model": 3}, "model is 3: expected a valid string", "model"),
        (
            {**GOOD, "model": "tniy"},
            "no model is called 'tniy': this server has tiny. Did you mean 'tiny'?",
            "model",
        ),
        ({**GOOD, "model": "tiny@"}, "expected a size after the @", "model"),
        ({**GOOD, "model": "tiny@6x"}, "expected a size after the @", "model"),
        ({**GOOD, "model": "tiny@0x8"}, "names a size of 0", "model"),
        ({**GOOD, "model": "tiny@9x8"}, "the size 9x8 is not offered", "layers"),
        ({**GOOD, "model": "tiny@2x8", "layers": 3}, "layers is 3 and the model is 'tiny@2x8'", "layers"),
        ({**GOOD, "model": "tiny@2x8", "dimensions": 16}, "leave one of them out", "dimensions"),
        ({**GOOD, "layer": 3}, "Did you mean 'layers'?", "layer"),
        ({**GOOD, "dimension": 8}, "Did you mean 'dimensions'?", "dimension"),
        ({**GOOD, "dimensions": 0}, "dimensions is 0: expected greater than or equal to 1", "dimensions"),
        ({**GOOD, "dimensions": -1}, "dimensions is -1", "dimensions"),
        ({**GOOD, "dimensions": 10**30}, "is not offered: 'tiny' has the sizes", "dimensions"),
        ({**GOOD, "dimensions": 8.5}, "dimensions is 8.5", "dimensions"),
        ({**GOOD, "dimensions": "8"}, 'dimensions is "8"', "dimensions"),
        ({**GOOD, "layers": True}, "layers is true", "layers"),
        ({**GOOD, "encoding_format": "bas64"}, "expected 'float' or 'base64'", "encoding_format"),
        ({**GOOD, "truncate": "yes"}, "truncate is", "truncate"),
        ({**GOOD, "input_type": "querry"}, "Did you mean 'query'?", "input_type"),
        ({**GOOD, "input": ""}, "input[0] is empty", "input"),
        ({**GOOD, "input": ["a", "", ""]}, "input[1], input[2] is empty", "input"),
        ({**GOOD, "input": []}, "input is an empty list", "input"),
        ({**GOOD, "input": None}, "input is null", "input"),
        ({**GOOD, "input": 3}, "input is a number", "input"),
        ({**GOOD, "input": {"text": "a"}}, "input is an object", "input"),
        ({**GOOD, "input": ["a", 3]}, "input[1] is a number: expected a text", "input"),
        ({**GOOD, "input": [None]}, "input[0] is null: expected a text", "input"),
        ({**GOOD, "input": [1, 2]}, "check_embedding_ctx_length=False", "input"),
        ({**GOOD, "input": [[1, 2]]}, "input holds token ids", "input"),
        ({**GOOD, "input": ["a"] * 3000}, "input has 3000 texts: expected at most 2048", "input"),
    ],
)
def test_a_mistake_is_named(client: TestClient, body: Any, said: str, param: str | None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/v1/embeddings", content=content)
    found = error_of(answer)
    assert answer.status_code == (404 if "tniy" in said or "after the @" in said else 400)
    assert said in found["message"]
    assert found["param"] == param
    assert client.post("/v1/embeddings", json=GOOD).status_code == 200


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=60),
        st.fixed_dictionaries(
            {},
            optional={
                name: st.one_of(
                    st.none(),
                    st.booleans(),
                    st.integers(),
                    st.floats(allow_nan=False),
                    st.text(max_size=8),
                    st.lists(
                        st.one_of(st.text(max_size=4), st.integers(), st.none(), st.lists(st.integers())),
                        max_size=4,
                    ),
                )
                for name in (
                    "input",
                    "model",
                    "dimensions",
                    "layers",
                    "encoding_format",
                    "truncate",
                    "user",
                    "other",
                )
            },
        ),
    )
)
def test_nothing_that_is_sent_breaks_it(client: TestClient, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/v1/embeddings", content=content)
    assert answer.status_code in (400, 404)
    error_of(answer)


def test_null_counts_as_left_out(client: TestClient) -> None:
    fields = dict.fromkeys(["encoding_format", "dimensions", "layers", "input_type", "truncate", "user"])
    assert client.post("/v1/embeddings", json={**GOOD, **fields}).status_code == 200
    assert client.post("/v1/embeddings", json={**GOOD, "layers": 3.0}).headers["x-matryoshka-size"] == "3x32"


def test_a_megabyte_of_one_text_is_cut(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={**GOOD, "input": "the cat " * 125_000})
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens"] == 64
    assert answer.headers["x-matryoshka-truncated"] == "1"


def test_limits_are_said(served: Served) -> None:
    client = served(max_inputs=3, max_request_tokens=100, max_body=2000)
    many = client.post("/v1/embeddings", json={**GOOD, "input": ["a"] * 4})
    assert "at most 3" in error_of(many)["message"]
    long = client.post("/v1/embeddings", json={**GOOD, "input": ["cat " * 60, "dog " * 60]})
    assert "more than 100 tokens" in error_of(long)["message"]
    # A text that comes twice costs its tokens twice, as the usage says.
    twice = client.post("/v1/embeddings", json={**GOOD, "input": ["cat " * 60] * 2})
    assert "more than 100 tokens" in error_of(twice)["message"]
    for content in (b"x" * 3000, iter([b"x" * 1500, b"x" * 1500])):
        large = client.post("/v1/embeddings", content=content)  # type: ignore[arg-type]
        assert large.status_code == 413
        assert "larger than 2000 bytes" in error_of(large)["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/embeddings", 405),
        ("PUT", "/health", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/embeddings/", 404),
        ("GET", "/%00", 404),
        ("GET", "/v1/models/", 404),
        ("BREW", "/ready", 405),
    ],
)
def test_ways_that_lead_nowhere(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    error_of(answer)
    assert status != 405 or answer.headers["allow"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_too_long": "cute"}, "--on-too-long is 'cute': expected cut or refuse"),
        ({"token_ids": "yes"}, "--token-ids is 'yes'"),
        ({"deadline": 0}, "--deadline is 0"),
        ({"port": 70000}, "--port is 70000"),
        ({"root_path": "x"}, "--root-path is 'x'"),
        ({"max_queue_tokens": 100_000}, "three quarters of the queue"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ServeOptions(**options)


def test_all_texts_of_the_tiny_model_are_served(client: TestClient) -> None:
    assert len(client.post("/v1/embeddings", json={**GOOD, "input": tiny.TEXTS}).json()["data"]) == len(
        tiny.TEXTS
    )
