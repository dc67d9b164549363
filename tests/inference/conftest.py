"""A tiny model with a prompt, its encoder, and texts of many lengths."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from matryoshka2d.encoder.elastic import ElasticEncoder
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


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep one cache for the whole session, so that each graph is made once."""
    folder = tmp_path_factory.mktemp("graphs")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("graphs", "ready_graphs"):
            patch.setattr(f"matryoshka2d.inference.{module}.user_cache", lambda name: folder / name)
        yield
