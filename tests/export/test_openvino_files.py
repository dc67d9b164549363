"""OpenVINO's own files compute what the encoder computes, and stand without the graph they came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.export import openvino_model, write_openvino
from matryoshka2d.export.openvino_files import save_openvino
from tests import tiny
from tests.export.graphs import in_openvino, inputs_for


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ElasticEncoder:
    return ElasticEncoder(tiny.sentence_model(tmp_path_factory.mktemp("ov")), device="cpu")


@pytest.fixture(scope="module")
def written(encoder: ElasticEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_openvino(encoder, "2x8", tmp_path_factory.mktemp("fp32"))


def test_the_files_compute_what_the_encoder_computes(encoder: ElasticEncoder, written: Path) -> None:
    assert sorted(file.name for file in written.parent.iterdir()) == ["2x8.bin", "2x8.xml"]
    for texts in (tiny.TEXTS, tiny.TEXTS[:1]):
        expected = encoder.encode(texts, size="2x8")
        np.testing.assert_allclose(in_openvino(written, inputs_for(encoder, texts)), expected, atol=1e-5)


def test_half_precision_halves_the_file(encoder: ElasticEncoder, written: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.xml"
    save_openvino(openvino.Core().read_model(written), path, "fp16")
    full, half = (file.with_suffix(".bin").stat().st_size for file in (written, path))
    assert half == pytest.approx(full / 2, rel=0.05)
    expected = encoder.encode(tiny.TEXTS, size="2x8")
    found = in_openvino(path, inputs_for(encoder, tiny.TEXTS))
    assert (found * expected).sum(axis=1).min() > 0.999


def test_without_the_library_the_extra_is_named(
    encoder: ElasticEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matryoshka2d.errors.find_spec", lambda name: None)
    for call in (lambda: openvino_model("1x8.onnx"), lambda: write_openvino(encoder, "1x8", tmp_path)):
        with pytest.raises(UserError, match=r"pip install 'matryoshka2d\[openvino\]'"):
            call()
