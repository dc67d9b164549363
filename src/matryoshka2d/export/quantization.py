"""Eight-bit weights for a graph, in the form that each runtime computes with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_HIGHEST = 127
_SEVEN_BITS = 63
# Activations are unsigned, which every processor multiplies fastest by signed weights.
_MIDDLE = 128
# Norms and small tables gain nothing.
_FEWEST_NUMBERS = 4096


def quantized_for_onnxruntime(model: ModelProto) -> ModelProto:
    """Return a graph whose products with weights, and whose look-ups, are in 8 bits.

    A weight has a scale for each output channel, an activation one for each token, taken from that token
    alone while running. So a text's vector does not depend on the texts beside it, as it would with one scale
    for a batch, and no texts have to be given to fix scales by. Weights use seven of their eight bits:
    processors without dot-product units add pairs of products in 16 bits, which eight would overflow, and a
    file does not know its processor.

    Parameters
    ----------
    model
        A graph with its weights inside. It is not changed.
    """
    from onnx import ModelProto

    found = ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    channels = _channels(found)
    for name, axis in channels.items():
        graph.initializer.extend(_packed(weights[name], axis, _SEVEN_BITS))
        graph.initializer.remove(weights[name])
    nodes: list[NodeProto] = []
    tokens: set[str] = set()
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in channels:
            if node.input[0] not in tokens:
                tokens.add(node.input[0])
                nodes += _packed_tokens(node.input[0])
            nodes += _product(node)
        elif node.op_type == "Gather" and node.input[0] in channels:
            nodes += _look_up(node)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(_constants())
    return found


def _packed_tokens(name: str) -> list[NodeProto]:
    """Return what turns float [..., channels] into uint8 around 128, and a scale for each token."""
    from onnx import TensorProto, helper

    node = helper.make_node
    return [
        node("Abs", [name], [f"{name}.abs"]),
        node("ReduceMax", [f"{name}.abs", "int8.last_axis"], [f"{name}.largest"], keepdims=1),
        node("Max", [f"{name}.largest", "int8.tiny"], [f"{name}.some"]),
        node("Div", [f"{name}.some", "int8.highest"], [f"{name}.scale"]),
        node("Div", [name, f"{name}.scale"], [f"{name}.scaled"]),
        node("Round", [f"{name}.scaled"], [f"{name}.round"]),
        node("Add", [f"{name}.round", "int8.middle"], [f"{name}.shifted"]),
        node("Cast", [f"{name}.shifted"], [f"{name}.uint8"], to=TensorProto.UINT8),
    ]


def _product(node: NodeProto) -> list[NodeProto]:
    """Return a product of packed tokens and a packed weight, scaled back."""
    from onnx import TensorProto, helper

    (tokens, weight), (out,) = node.input, node.output
    packed = [f"{tokens}.uint8", f"{weight}.int8", "int8.zero"]
    return [
        helper.make_node("MatMulInteger", packed, [f"{out}.int32"], name=f"{node.name}.int8"),
        helper.make_node("Cast", [f"{out}.int32"], [f"{out}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{out}.float", f"{tokens}.scale"], [f"{out}.rows"]),
        helper.make_node("Mul", [f"{out}.rows", f"{weight}.scale"], [out], name=f"{node.name}.scaled"),
    ]


def _look_up(node: NodeProto) -> list[NodeProto]:
    """Return a look-up in a packed table, scaled back: only the rows that are read become floats."""
    from onnx import TensorProto, helper

    (table, rows), (out,) = node.input, node.output
    return [
        helper.make_node("Gather", [f"{table}.int8", rows], [f"{out}.int8"], name=f"{node.name}.int8"),
        helper.make_node("Gather", [f"{table}.scale", rows], [f"{out}.scale"]),
        helper.make_node("Cast", [f"{out}.int8"], [f"{out}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{out}.float", f"{out}.scale"], [out], name=f"{node.name}.scaled"),
    ]


def _constants() -> list[TensorProto]:
    from onnx import numpy_helper

    values: dict[str, np.ndarray] = {
        "int8.last_axis": np.array([-1], dtype=np.int64),
        "int8.tiny": np.array(np.finfo(np.float32).tiny * _HIGHEST, dtype=np.float32),
        "int8.highest": np.array(_HIGHEST, dtype=np.float32),
        "int8.middle": np.array(_MIDDLE, dtype=np.float32),
        "int8.zero": np.array(_MIDDLE, dtype=np.uint8),
    }
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def with_eight_bit_weights(model: ModelProto) -> ModelProto:
    """Return a graph whose weights are int8 with a scale for each channel; the arithmetic is free.

    OpenVINO keeps such weights as they are and unpacks them while it multiplies.

    Parameters
    ----------
    model
        A graph with its weights inside. It is not changed.
    """
    from onnx import ModelProto, helper

    found = ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    unpacking = []
    for name, axis in _channels(found).items():
        graph.initializer.extend(_packed(weights[name], axis, _HIGHEST, flat=True))
        graph.initializer.remove(weights[name])
        inputs = [f"{name}.int8", f"{name}.scale"]
        unpacking.append(
            helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}.unpack", axis=axis)
        )
    nodes = [*unpacking, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return found


def _packed(weight: TensorProto, axis: int, highest: int, *, flat: bool = False) -> list[TensorProto]:
    """Return a weight [rows, columns] as int8 up to `highest`, and a scale for each channel of an axis."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(weight)
    scale = np.abs(values).max(axis=1 - axis, keepdims=True) / highest
    scale[scale == 0] = 1
    packed = np.rint(values / scale).astype(np.int8)
    # Rows keep their second axis, so that what is looked up meets its scale.
    shaped = scale.ravel() if flat or axis == 1 else scale
    return [
        numpy_helper.from_array(packed, f"{weight.name}.int8"),
        numpy_helper.from_array(shaped.astype(np.float32), f"{weight.name}.scale"),
    ]


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
