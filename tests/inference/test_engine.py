"""Every engine is the same function as `encode`, opened by name."""

from __future__ import annotations

import numpy as np
import pytest

from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.inference import Engine, open_engine
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.sentence_model(tmp_path_factory.mktemp("model"), prompts={"query": "query : "})


@pytest.fixture(scope="module")
def encoder(model: str) -> ElasticEncoder:
    return ElasticEncoder(model, device="cpu")


@pytest.fixture(scope="module")
def engine(model: str) -> Engine:
    return open_engine(model, precision="fp32", device="cpu")


@pytest.mark.parametrize("size", [None, "1x8", "3x16", "4x32"])
def test_it_is_the_function_of_encode(engine: Engine, encoder: ElasticEncoder, size: str | None) -> None:
    vectors = engine.embed(tiny.TEXTS, size)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, encoder.encode(tiny.TEXTS, size=size or encoder.size), atol=1e-5)


def test_a_prompt_is_put_before_every_text(engine: Engine, encoder: ElasticEncoder) -> None:
    expected = encoder.encode(tiny.TEXTS, prompt_name="query")
    np.testing.assert_allclose(engine.embed(tiny.TEXTS, prompt_name="query"), expected, atol=1e-5)
    np.testing.assert_allclose(engine.embed(tiny.TEXTS, prompt="query : "), expected, atol=1e-5)


def test_no_texts_give_no_vectors(engine: Engine) -> None:
    assert engine.embed([], "2x8").shape == (0, 8)


def test_it_is_an_engine_and_says_what_it_is(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    assert (engine.name, engine.precision, engine.device) == ("torch", "fp32", "cpu")
    assert (engine.depth, engine.width, str(engine.size)) == (tiny.LAYERS, tiny.WIDTH, "4x32")


def test_a_loaded_encoder_is_left_as_it_is(encoder: ElasticEncoder) -> None:
    before = encoder.encode(tiny.TEXTS)
    open_engine(encoder, precision="bf16").embed(tiny.TEXTS)
    np.testing.assert_array_equal(encoder.encode(tiny.TEXTS), before)


def test_mistakes_are_one_line(model: str, engine: Engine) -> None:
    with pytest.raises(UserError, match=r"no engine is called 'troch'.*Did you mean 'torch'\?"):
        open_engine(model, "troch")
    with pytest.raises(UserError, match="Unknown precision 'fp31'"):
        open_engine(model, precision="fp31")
    with pytest.raises(UserError, match="too deep"):
        engine.embed(["a cat"], "9x8")
