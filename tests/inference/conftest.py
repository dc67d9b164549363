"""A tiny model with a prompt, its encoder, and texts of many lengths."""

from __future__ import annotations

import random

import pytest

from matryoshka2d.encoder import ElasticEncoder
from tests import tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.sentence_model(tmp_path_factory.mktemp("inference"), prompts={"query": "query : "})


@pytest.fixture(scope="session")
def encoder(model: str) -> ElasticEncoder:
    return ElasticEncoder(model, device="cpu")


@pytest.fixture(scope="session")
def mixed() -> list[str]:
    """Return texts of 1 to 58 words."""
    rng = random.Random(0)
    return [" ".join(rng.choices(tiny.WORDS.split(), k=rng.randint(1, 58))) for _ in range(40)]
