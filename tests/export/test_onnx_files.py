"""ONNX graphs compute what the encoder computes, at every size, whatever the batch, from shared weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matryoshka2d.encoder.architectures import ARCHITECTURES
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.export import OPSET, write_onnx
from matryoshka2d.size import Size
from tests import tiny
from tests.export.graphs import RUNTIMES, in_onnxruntime, inputs_for

# A final norm behind layers of two kinds, on the harder side. Tracing takes seconds: the others are slow.
QUICK = {("modernbert", "left")}
TEXTS = ["a cat sat on the mat", "", "x " * 300, "The stock market fell sharply on Monday."]


@pytest.fixture(scope="module")
def minilm_encoder(minilm: str) -> ElasticEncoder:
    return ElasticEncoder(minilm, device="cpu")


@pytest.fixture(scope="module")
def graphs(minilm_encoder: ElasticEncoder, tmp_path_factory: pytest.TempPathFactory) -> dict[Size, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    return write_onnx(minilm_encoder, "1-6x32,384 3x128", folder)


def assert_equal_at(
    encoder: ElasticEncoder, size: Size, graph: Path, texts: Sequence[str], prompt: str | None = None
) -> None:
    expected = encoder.encode(texts, size=size, prompt=prompt, batch_size=len(texts))
    for runtime in RUNTIMES.values():
        found = runtime(graph, inputs_for(encoder, texts, prompt))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=f"{size} {runtime.__name__}")


def test_minilm_at_every_depth(minilm_encoder: ElasticEncoder, graphs: dict[Size, Path]) -> None:
    assert len(graphs) == 13
    for size, graph in graphs.items():
        assert_equal_at(minilm_encoder, size, graph, TEXTS)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=80), min_size=1, max_size=9))
def test_any_batch_of_any_length(
    minilm_encoder: ElasticEncoder, graphs: dict[Size, Path], texts: list[str]
) -> None:
    size = Size(1, 32)
    expected = minilm_encoder.encode(texts, size=size, batch_size=len(texts))
    np.testing.assert_allclose(
        in_onnxruntime(graphs[size], inputs_for(minilm_encoder, texts)), expected, atol=1e-5
    )


def test_six_depths_take_the_disk_of_one(graphs: dict[Size, Path], minilm: str) -> None:
    folder = graphs[Size(6, 384)].parent
    source = (Path(minilm) / "model.safetensors").stat().st_size
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1.05 * source
    assert all(path.stat().st_size < 100_000 for path in graphs.values())


def test_a_shallow_export_holds_only_its_layers(minilm_encoder: ElasticEncoder, tmp_path: Path) -> None:
    write_onnx(minilm_encoder, "1x32", tmp_path)
    layer = sum(p.numel() for p in minilm_encoder.base.encoder.layer[0].parameters())
    embeddings = sum(p.numel() for p in minilm_encoder.base.embeddings.parameters())
    assert (tmp_path / "weights.bin").stat().st_size == pytest.approx(4 * (layer + embeddings), rel=0.01)


def test_a_graph_is_valid_and_says_what_it_takes(graphs: dict[Size, Path]) -> None:
    path = graphs[Size(3, 128)]
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path), load_external_data=False)
    assert not any(node.metadata_props for node in model.graph.node), "paths of this machine"
    assert [(s.domain, s.version) for s in model.opset_import] == [("", OPSET)]
    assert model.producer_name == "matryoshka2d"
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "input_ids": ["batch", "length"],
        "token_type_ids": ["batch", "length"],
        "attention_mask": ["batch", "length"],
        "sentence_embedding": ["batch", 128],
    }


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_onnx(encoder, "1x8", tmp_path / name)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("model_type", "padding_side"),
    [
        pytest.param(name, side, marks=[] if (name, side) in QUICK else pytest.mark.slow)
        for name in ARCHITECTURES
        for side in ("right", "left")
    ],
)
def test_every_architecture(tmp_path: Path, model_type: str, padding_side: str) -> None:
    folder = tiny.sentence_model(tmp_path, model_type, padding_side=padding_side)
    encoder = ElasticEncoder(folder, device="cpu")
    for size, graph in write_onnx(encoder, "1x8 2x32 4x16", tmp_path).items():
        for texts in (tiny.TEXTS, tiny.TEXTS[:1]):
            assert_equal_at(encoder, size, graph, texts)


@pytest.mark.slow
@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "max"])
def test_every_pooling_with_a_prompt(
    tmp_path: Path, pooling: str, include_prompt: bool, padding_side: str
) -> None:
    folder = tiny.sentence_model(
        tmp_path, pooling=pooling, include_prompt=include_prompt, padding_side=padding_side, dense=True
    )
    encoder = ElasticEncoder(folder, device="cpu")
    for size, graph in write_onnx(encoder, "1x8 4x24", tmp_path).items():
        for prompt in (None, "query : "):
            assert_equal_at(encoder, size, graph, tiny.TEXTS, prompt)


def with_heads(folder: Path) -> ElasticEncoder:
    """Return a tiny encoder whose inner exits have heads that are far from the identity."""
    encoder = ElasticEncoder(tiny.sentence_model(folder), device="cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.add_heads().parameters():
            parameter.add_(torch.randn_like(parameter))
    return encoder


def test_heads_and_a_prompt_left_out_of_pooling(tmp_path: Path) -> None:
    encoder = with_heads(tmp_path)
    encoder.set_pooling_include_prompt(False)
    before, vectors = encoder.base.config._attn_implementation, encoder.encode(tiny.TEXTS)
    for size, graph in write_onnx(encoder, "1-4x16", tmp_path).items():
        for prompt in (None, "query : "):
            assert_equal_at(encoder, size, graph, tiny.TEXTS, prompt)
    # The encoder itself is as it was.
    assert encoder.base.config._attn_implementation == before
    np.testing.assert_array_equal(encoder.encode(tiny.TEXTS), vectors)


def test_half_precision_halves_the_file_and_keeps_the_direction(tmp_path: Path, minilm: str) -> None:
    encoder = ElasticEncoder(minilm, size="2x128", device="cpu")
    (graph,) = write_onnx(encoder, "2x128", tmp_path, precision="fp16").values()
    found = in_onnxruntime(graph, inputs_for(encoder, TEXTS))
    assert found.dtype == np.float32
    cosines = (found * encoder.encode(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.999
    numbers = sum(parameter.numel() for parameter in encoder.parameters())
    assert (tmp_path / "weights.bin").stat().st_size < 2.1 * numbers


def test_a_size_that_the_model_lacks(minilm_encoder: ElasticEncoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="size 7x384 is too deep"):
        write_onnx(minilm_encoder, "5-7x384", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_weighted_mean_without_its_prompt_is_refused(tmp_path: Path) -> None:
    folder = tiny.sentence_model(tmp_path, pooling="weightedmean", include_prompt=False)
    with pytest.raises(UserError, match="weighted mean"):
        write_onnx(ElasticEncoder(folder, device="cpu"), "1x8", tmp_path)


def test_without_the_library_the_extra_is_named(
    minilm_encoder: ElasticEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matryoshka2d.errors.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'matryoshka2d\[onnx\]'"):
        write_onnx(minilm_encoder, "1x8", tmp_path)
