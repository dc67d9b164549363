"""Exits from the engine: the function of `ElasticEncoder.exits`, at every depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matryoshka2d.encoder.architectures import ARCHITECTURES
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.precision import bf16_units
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.exits import Exits
from matryoshka2d.inference import engine_exits as module
from matryoshka2d.inference.engine_exits import EngineExits, exits_in, open_exits
from matryoshka2d.inference.kernels import load_kernels
from tests import tiny


@pytest.fixture(scope="module")
def fast(encoder: ElasticEncoder) -> EngineExits:
    return open_exits(encoder, "fp32")


def test_it_is_what_an_evaluation_asks_for(fast: EngineExits, encoder: ElasticEncoder) -> None:
    assert isinstance(fast, Exits)
    assert (fast.depth, fast.width, fast.sizes) == (encoder.depth, encoder.width, encoder.sizes)
    assert fast.precision == "fp32"


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_exit_is_that_of_the_encoder(
    fast: EngineExits, encoder: ElasticEncoder, mixed: list[str], data: st.DataObject
) -> None:
    layers = data.draw(st.none() | st.lists(st.integers(1, 4), min_size=1))
    texts = data.draw(st.lists(st.sampled_from(mixed), max_size=20))
    found = fast.exits(texts, layers=layers, prompt_name="query")
    expected = encoder.exits(texts, layers=layers, prompt_name="query")
    assert list(found) == list(expected)
    for n, vectors in expected.items():
        assert found[n].dtype == np.float32
        np.testing.assert_allclose(found[n], vectors, atol=1e-5)


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_every_architecture(tmp_path: Path, mixed: list[str], model_type: str) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path, model_type), device="cpu")
    found = open_exits(encoder, "fp32").exits(mixed)
    for n, vectors in encoder.exits(mixed, batch_size=1).items():
        np.testing.assert_allclose(found[n], vectors, atol=2e-5)


def test_chunks_leave_no_trace(
    fast: EngineExits, mixed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = fast.exits(mixed)
    monkeypatch.setattr(module, "_CHUNK", 7)
    pieces = fast.exits(mixed, show_progress_bar=True)
    for n, vectors in whole.items():
        np.testing.assert_allclose(pieces[n], vectors, atol=2e-6)
    assert f"{len(mixed)}/{len(mixed)}" in capsys.readouterr().err


def test_bf16_is_near(encoder: ElasticEncoder, mixed: list[str]) -> None:
    fast = open_exits(encoder, "bf16")
    assert fast.precision == "bf16"
    found = fast.exits(mixed)
    for n, vectors in encoder.exits(mixed).items():
        assert np.einsum("ij,ij->i", found[n], vectors).min() > 0.999


@pytest.mark.skipif(load_kernels("int16") is None, reason="no AVX2, or no compiler")
def test_int16_is_nearer(encoder: ElasticEncoder, mixed: list[str]) -> None:
    fast = exits_in(encoder, "int16")
    assert fast.precision == "int16"
    found = fast.exits(mixed)
    for n, vectors in encoder.exits(mixed).items():
        assert np.einsum("ij,ij->i", found[n], vectors).min() > 0.9999


def test_a_model_without_a_table_of_layers_is_measured_in_fp32() -> None:
    plain = object()
    assert exits_in(plain, "fp32") is plain
    assert exits_in(plain, "auto") is plain
    with pytest.raises(UserError, match="in fp32 alone"):
        exits_in(plain, "bf16")


def test_bf16_without_units_is_said(encoder: ElasticEncoder) -> None:
    said: list[str] = []
    exits_in(encoder, "bf16", said.append)
    assert len(said) == (not bf16_units("cpu"))


def test_mistakes_are_one_line(fast: EngineExits, encoder: ElasticEncoder) -> None:
    with pytest.raises(UserError, match="5"):
        fast.exits(["a cat"], layers=[5])
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        open_exits(encoder, "fp16")
