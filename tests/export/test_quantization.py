"""Eight-bit graphs: a quarter of the bytes, the direction kept, the weights rounded as they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.export.graph import exit_graph
from matryoshka2d.export.onnx_files import single_output, write_graphs
from matryoshka2d.export.quantization import quantized_for_onnxruntime, with_eight_bit_weights
from matryoshka2d.size import Size
from tests.export.graphs import RUNTIMES, inputs_for

SIZE = Size(2, 64)
TEXTS = ["A man is playing a guitar.", "x", "The stock market fell sharply on Monday."]
METHODS = {"onnxruntime": (quantized_for_onnxruntime, 0.98), "weights": (with_eight_bit_weights, 0.998)}


@pytest.fixture(scope="module")
def encoder(minilm: str) -> ElasticEncoder:
    return ElasticEncoder(minilm, size="2x64", device="cpu")


@pytest.fixture(scope="module")
def graph(encoder: ElasticEncoder) -> onnx.ModelProto:
    return single_output(exit_graph(encoder, [SIZE]), str(SIZE))


@pytest.mark.parametrize("method", METHODS)
def test_it_keeps_the_direction_in_a_quarter_of_the_bytes(
    encoder: ElasticEncoder, graph: onnx.ModelProto, tmp_path: Path, method: str
) -> None:
    quantize, floor = METHODS[method]
    before = graph.SerializeToString(deterministic=True)
    path = write_graphs({SIZE: quantize(graph)}, tmp_path)[SIZE]
    assert graph.SerializeToString(deterministic=True) == before
    assert (tmp_path / "weights.bin").stat().st_size < 0.26 * len(before)
    expected = encoder.encode(TEXTS)
    for run in RUNTIMES.values():
        found = run(path, inputs_for(encoder, TEXTS))
        assert floor < (found * expected).sum(axis=1).min() < 0.99999


def test_weights_are_rounded_by_channel(graph: onnx.ModelProto) -> None:
    packed = {t.name: numpy_helper.to_array(t) for t in with_eight_bit_weights(graph).graph.initializer}
    weights = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    names = [name.removesuffix(".int8") for name in packed if name.endswith(".int8")]
    # Words, positions; four products of attention and two more in each of two layers; no cut needs one.
    assert len(names) == 2 + 6 * 2
    for name in names:
        codes, scale = packed[f"{name}.int8"], packed[f"{name}.scale"]
        axis = 1 if scale.size == codes.shape[1] and "embeddings" not in name else 0
        shape = (1, -1) if axis == 1 else (-1, 1)
        errors = np.abs(codes * scale.reshape(shape) - weights[name])
        assert (errors <= scale.reshape(shape) / 2 + 1e-6).all()
        assert np.abs(codes).max() == 127
