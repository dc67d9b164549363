"""ONNX Runtime: graphs made once, depths when asked for, int8 on the user's own texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.inference import graphs as module
from matryoshka2d.inference import onnx_engine, open_engine
from matryoshka2d.inference.onnx_engine import Depths, resident_bytes
from tests import tiny

pytestmark = pytest.mark.usefixtures("graphs")


def test_graphs_are_made_once_over_one_file_of_weights(
    encoder: ElasticEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = module.graph_files(encoder)
    assert list(files) == [1, 2, 3, 4]
    folder = files[1].parent
    assert {path.name for path in folder.iterdir()} == {
        "weights.bin",
        *(path.name for path in files.values()),
    }
    monkeypatch.setattr(module, "exit_graph", lambda *_: pytest.fail("made again"))
    assert module.graph_files(encoder) == files


def test_another_model_has_other_graphs(encoder: ElasticEncoder, model: str, tmp_path: Path) -> None:
    assert module.fingerprint(ElasticEncoder(model, device="cpu")) == module.fingerprint(encoder)
    for change in ({"pooling": "cls"}, {"layer_norm_eps": 1e-3}, {"num_attention_heads": 2}):
        other = ElasticEncoder(tiny.sentence_model(tmp_path / str(change), **change), device="cpu")
        assert module.fingerprint(other) != module.fingerprint(encoder)


def test_a_depth_is_made_ready_when_it_is_first_asked_for(encoder: ElasticEncoder) -> None:
    opened = open_engine(encoder, "onnx", "fp32")
    assert dict(opened.memory()) == {}
    opened.embed(["a cat"], "2x8")
    opened.embed(["a cat"], "2x16")
    assert list(opened.memory()) == [2]


def test_a_depth_is_made_once_and_its_growth_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the process really holds is the allocator's business: it may hand out memory that it held before.
    held = iter([100, 350, 400, 390])
    monkeypatch.setattr(onnx_engine, "resident_bytes", lambda: next(held))
    made: list[int] = []

    def make(layers: int) -> list[int]:
        made.append(layers)
        return made

    depths = Depths(make)
    assert depths[2] is depths[2]
    assert made == [2]
    assert depths[1] is made
    assert depths.memory() == {2: 250, 1: 0}


def test_the_memory_of_this_process_is_read() -> None:
    assert 1_000_000 < resident_bytes() < psutil.virtual_memory().total


@pytest.mark.slow
def test_int8_is_calibrated_and_stays_close(minilm: str) -> None:
    words = [
        f"The {a} {b} near the {c}."
        for a in ("old", "red", "slow")
        for b in ("dog", "train")
        for c in ("sea", "house", "mill")
    ]
    encoder = ElasticEncoder(minilm, device="cpu")
    opened = open_engine(encoder, "onnx", "int8", calibration=words)
    for size in ("6x384", "2x384"):
        cosines = (opened.embed(words, size) * encoder.encode(words, size=size)).sum(axis=1)
        assert cosines.min() > 0.9
    alone = np.concatenate([opened.embed([text]) for text in words])
    assert (alone * opened.embed(words)).sum(axis=1).min() > 0.999


class TestInt8:
    @pytest.fixture(scope="class")
    def int8(self, encoder: ElasticEncoder, mixed: list[str], graphs: None) -> object:
        return open_engine(encoder, "onnx", "int8", calibration=mixed)

    def test_it_is_close_at_every_exit(self, int8: object, encoder: ElasticEncoder, mixed: list[str]) -> None:
        for size in ("1x32", "4x32"):
            cosines = (int8.embed(mixed, size) * encoder.encode(mixed, size=size)).sum(axis=1)  # type: ignore[attr-defined]
            assert cosines.min() > 0.95

    def test_scales_are_fixed_so_that_neighbors_do_not_matter(self, int8: object, mixed: list[str]) -> None:
        alone = np.concatenate([int8.embed([text]) for text in mixed])  # type: ignore[attr-defined]
        np.testing.assert_allclose(int8.embed(mixed), alone, atol=1e-5)  # type: ignore[attr-defined]

    def test_a_calibration_is_remembered(self, int8: object, encoder: ElasticEncoder) -> None:
        again = open_engine(encoder, "onnx", "int8")
        cosines = (again.embed(tiny.TEXTS) * int8.embed(tiny.TEXTS)).sum(axis=1)  # type: ignore[attr-defined]
        assert cosines.min() > 0.98

    def test_without_texts_there_is_no_int8(self, tmp_path: Path) -> None:
        other = ElasticEncoder(tiny.sentence_model(tmp_path, pooling="max"), device="cpu")
        with pytest.raises(UserError, match=r"int8 is calibrated on texts of yours.*calibration=texts"):
            open_engine(other, "onnx", "int8")


def test_what_an_engine_lacks_is_said(encoder: ElasticEncoder) -> None:
    with pytest.raises(UserError, match="the onnx engine has no bf16"):
        open_engine(encoder, "onnx", "bf16")
    with pytest.raises(UserError, match="the onnx engine runs on the cpu"):
        open_engine(encoder, "onnx", device="cuda")


def test_a_library_that_is_missing_is_named(encoder: ElasticEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "matryoshka2d.errors.find_spec", lambda name: None if name == "onnxruntime" else object()
    )
    with pytest.raises(UserError, match=r"pip install 'matryoshka2d\[onnx\]'"):
        open_engine(encoder, "onnx")
