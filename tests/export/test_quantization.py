"""Eight-bit graphs: a quarter of the bytes, the direction kept, the weights rounded as they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.export.graph import OPSET, exit_graph
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


@pytest.mark.parametrize("method", METHODS)
def test_a_text_has_one_vector_whatever_stands_beside_it(
    encoder: ElasticEncoder, graph: onnx.ModelProto, tmp_path: Path, method: str
) -> None:
    path = write_graphs({SIZE: METHODS[method][0](graph)}, tmp_path)[SIZE]
    texts = [*TEXTS, "rain " * 300, "A MUCH LOUDER TEXT!!! 9999999 $$$$ ####"]
    # OpenVINO's sums differ a little with the shape of a batch: now and then a number rounds otherwise.
    floors = {"onnxruntime": 0.99999, "openvino": 0.995}
    for name, run in RUNTIMES.items():
        together = run(path, inputs_for(encoder, texts))
        alone = np.concatenate([run(path, inputs_for(encoder, [text])) for text in TEXTS])
        assert (together[: len(alone)] * alone).sum(axis=1).min() > floors[name], name


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    inner=st.integers(16, 80),
    loudness=st.floats(-6, 6),
)
@settings(max_examples=25, deadline=None)
def test_a_product_is_within_its_rounding_whatever_the_size_of_a_token(
    seed: int, shape: tuple[int, int], inner: int, loudness: float
) -> None:
    chance = np.random.default_rng(seed)
    tokens = chance.normal(size=(*shape, inner)).astype(np.float32)
    tokens[0, 0] *= 10**loudness
    tokens[-1, -1] = 0
    weight = chance.normal(size=(inner, 256)).astype(np.float32)
    weight[:, 0] = 0
    product = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "length", inner])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "length", 256])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", OPSET)]
    packed = quantized_for_onnxruntime(helper.make_model(product, opset_imports=opset, ir_version=9))
    session = onnxruntime.InferenceSession(packed.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["y"], {"x": tokens})
    # Half a step of a token for every weight, half a step of a channel for every number, and both at once.
    steps = np.abs(tokens).max(axis=-1, keepdims=True) / 127 / 2
    channels = np.abs(weight).max(axis=0) / 63 / 2
    bound = steps * np.abs(weight).sum(axis=0) + np.abs(tokens).sum(axis=-1, keepdims=True) * channels
    bound = bound + steps * channels * inner
    assert (np.abs(found - tokens @ weight) <= 1.001 * bound + 1e-6).all()
    assert (found[-1, -1] == 0).all()


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
