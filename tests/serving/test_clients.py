"""Libraries that speak to OpenAI's API speak to this one, unchanged."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matryoshka2d.encoder.elastic import ElasticEncoder
from tests import tiny

CLIENTS = os.environ.get("MATRYOSHKA2D_CLIENTS")
"""The Python of an environment with what clients.txt lists."""

LIBRARIES = ["langchain", "litellm", "llamaindex"]


@pytest.fixture(scope="module")
def made(url: str) -> Any:
    if CLIENTS is None:
        pytest.skip("MATRYOSHKA2D_CLIENTS names no Python with the libraries of tests/serving/clients.txt")
    script = Path(__file__).with_name("other_clients.py")
    command = [CLIENTS, str(script), f"{url}/v1", "tiny@2x16", *tiny.TEXTS]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_gets_the_vectors_of_the_size_in_the_name(
    made: Any, library: str, encoder: ElasticEncoder
) -> None:
    expected = encoder.encode(tiny.TEXTS, size="2x16")
    np.testing.assert_allclose(np.array(made[library]), expected, atol=2e-6)


def test_mteb_measures_it(url: str, encoder: ElasticEncoder) -> None:
    wrappers = pytest.importorskip("mteb.models.openai_wrappers")
    wrapper = wrappers.OpenAIAPIEncodeWrapper(
        endpoint_url=url, model_name="tiny@2x16", modalities=["text"], use_chat_template=False
    )
    found = wrapper._get_embeddings(tiny.TEXTS)
    np.testing.assert_allclose(found, encoder.encode(tiny.TEXTS, size="2x16"), atol=2e-6)
