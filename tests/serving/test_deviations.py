"""What other servers get wrong, as their users report it: each is right here.

The deviations were found by running infinity-emb 0.0.78; `benchmarks/serving.py` runs the same on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from matryoshka2d.encoder.elastic import ElasticEncoder
from tests.serving.test_api import WORDS, embed, vectors
from tests.serving.test_bad_input import error_of


@pytest.mark.parametrize("dims", [8, 16, 32])
def test_a_cut_vector_is_of_unit_length(client: TestClient, dims: int) -> None:
    assert np.linalg.norm(vectors(embed(client, input="a cat", dimensions=dims))) == pytest.approx(
        1, abs=1e-6
    )


def test_usage_counts_tokens_not_characters(client: TestClient, encoder: ElasticEncoder) -> None:
    usage = embed(client, input=["a cat", "the dog runs"]).json()["usage"]
    assert usage["prompt_tokens"] == 4 + 5


def test_an_unknown_model_is_not_served_by_another(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={"model": "other", "input": "a"})
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")


def test_a_null_encoding_format_is_float(client: TestClient) -> None:
    answer = embed(client, input="a cat", encoding_format=None)
    assert isinstance(answer.json()["data"][0]["embedding"], list)


def test_an_empty_list_is_refused_in_the_shape_of_openai(client: TestClient) -> None:
    answer = embed(client, input=[])
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "empty_input"


def test_a_cut_text_is_said_to_be(client: TestClient) -> None:
    answer = embed(client, input=" ".join(WORDS * 50))
    assert answer.status_code == 200
    assert answer.headers["x-matryoshka-truncated"] == "1"


def test_an_empty_text_is_refused(client: TestClient) -> None:
    answer = embed(client, input=["a cat", ""])
    assert (answer.status_code, error_of(answer)["param"]) == (400, "input")


def test_the_engine_has_figures(client: TestClient) -> None:
    embed(client, input="a cat")
    page = client.get("/metrics").text
    for name in (
        "queue_seconds",
        "embed_seconds",
        "tokenize_seconds",
        "batch_tokens",
        "queue_tokens",
        "tokens_total",
    ):
        assert f"matryoshka2d_{name}" in page


def test_nothing_is_sent_to_anyone(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*arguments: Any, **options: Any) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert embed(client, input="a cat").status_code == 200
