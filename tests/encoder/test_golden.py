"""A model that an earlier version trained and saved loads, and gives the vectors that it gave then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from matryoshka2d import ElasticEncoder

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("size", ["1x8", "2x16", "3x32", "4x32"])
def test_an_old_model_gives_its_old_vectors(size: str) -> None:
    expected = json.loads((GOLDEN / "vectors.json").read_text(encoding="utf-8"))
    encoder = ElasticEncoder(str(GOLDEN / "saved"), device="cpu")
    assert encoder.heads is not None and encoder.rotated
    np.testing.assert_allclose(
        encoder.encode(expected["texts"], size=size), expected["vectors"][size], atol=2e-6
    )
