"""One tiny model for all pretraining tests."""

from __future__ import annotations

import pytest
from tests import tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tiny sentence-transformers model, with BERT's usual dropout."""
    return tiny.sentence_model(tmp_path_factory.mktemp("tiny"), initializer_range=0.05)
