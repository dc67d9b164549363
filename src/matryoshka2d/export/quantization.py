"""Eight-bit weights for a graph, in the form that each runtime computes with."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matryoshka2d.errors import needs

if TYPE_CHECKING:
    from onnx import ModelProto

_HIGHEST = 127
# Norms and small tables gain nothing.
_FEWEST_NUMBERS = 4096


def quantized_for_onnxruntime(model: ModelProto) -> ModelProto:
    """Return a graph with 8-bit matrix products, by ONNX Runtime's own dynamic quantisation.

    Weights are scaled by output channel; activations by batch, while running. Weights use seven of their
    eight bits: processors without dot-product units add pairs of products in 16 bits, which eight would
    overflow, and a file does not know its processor.

    Parameters
    ----------
    model
        A graph with its weights inside. It is not changed.
    """
    needs("onnx", "onnxruntime")
    import logging

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(model, before)
        # It asks on the root logger for a preparation that fuses nothing here.
        logging.disable(logging.WARNING)
        try:
            quantize_dynamic(before, after, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(after)


def with_eight_bit_weights(model: ModelProto) -> ModelProto:
    """Return a graph whose weights are int8 with a scale for each channel; the arithmetic is free.

    OpenVINO keeps such weights as they are and unpacks them while it multiplies.

    Parameters
    ----------
    model
        A graph with its weights inside. It is not changed.
    """
    from onnx import ModelProto, helper, numpy_helper

    found = ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    unpacking = []
    for name, axis in _channels(found).items():
        values = numpy_helper.to_array(weights[name])
        scale = np.abs(values).max(axis=1 - axis, keepdims=True) / _HIGHEST
        scale[scale == 0] = 1
        packed = np.rint(values / scale).astype(np.int8)
        weights[name].CopyFrom(numpy_helper.from_array(packed, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scale.ravel().astype(np.float32), f"{name}.scale"))
        inputs = [f"{name}.int8", f"{name}.scale"]
        unpacking.append(
            helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}.unpack", axis=axis)
        )
    nodes = [*unpacking, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return found


def _channels(model: ModelProto) -> dict[str, int]:
    """Return the weights of matrix products and look-ups → the axis of their channels."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    large = {name for name, shape in shapes.items() if len(shape) == 2 and np.prod(shape) >= _FEWEST_NUMBERS}
    axes: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in large:
            axes[node.input[1]] = 1
        elif node.op_type == "Gather" and node.input[0] in large:
            axes.setdefault(node.input[0], 0)
    return axes
