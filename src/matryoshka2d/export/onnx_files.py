"""Graphs of several sizes on disk: one small file a size, and one file of weights for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from matryoshka2d.export.graph import exit_graph
from matryoshka2d.export.quantization import quantized_for_onnxruntime
from matryoshka2d.export.signature import OUTPUT
from matryoshka2d.size import Size, parse_sizes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

    from matryoshka2d.encoder.elastic import ElasticEncoder

WEIGHTS = "weights.bin"
"""The file of weights that stands beside the graphs."""

# Readers map the file into memory, which wants whole pages.
_PAGE = 4096
# Smaller constants (shapes, scales) stay in the graph, where optimizers look for them.
_SMALLEST_EXTERNAL = 1024


def write_onnx(
    encoder: ElasticEncoder,
    sizes: str | Iterable[str | Size],
    folder: str | Path,
    *,
    precision: str = "fp32",
) -> dict[Size, Path]:
    """Write one ONNX graph for each size; all of them read their weights from one file beside them.

    Parameters
    ----------
    encoder
        The encoder. It is not changed.
    sizes
        The sizes, as ``"1-6x384"`` or a list of sizes.
    folder
        Where to write: `Size` as file name, ``3x128.onnx``, and ``weights.bin``. The folder must exist.
    precision : {"fp32", "fp16", "int8"}
        Of weights and arithmetic. Take fp16 to halve the file; int8 to quarter it and to multiply in 8 bits.

    Returns
    -------
    dict
        size → its graph. Inputs: what the tokenizer gives, int64 [batch, length], both free. Output:
        ``sentence_embedding``, float32 [batch, dims], of unit length. Operator set `OPSET`.

    Raises
    ------
    UserError
        If the model lacks a size or ONNX is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from matryoshka2d.encoder.default_model import default_model_path
    >>> from matryoshka2d.encoder.elastic import ElasticEncoder
    >>> encoder = ElasticEncoder(default_model_path(), device="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     graphs = write_onnx(encoder, "1x32,64", folder)
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['1x32.onnx', '1x64.onnx', 'weights.bin']
    """
    wanted = parse_sizes(sizes)
    whole = exit_graph(encoder, wanted, precision="fp16" if precision == "fp16" else "fp32")
    if precision == "int8":
        whole = quantized_for_onnxruntime(whole)
    graphs = {size: single_output(whole, str(size)) for size in wanted}
    return write_graphs(graphs, Path(folder))


def write_graphs(graphs: dict[Size, ModelProto], folder: Path) -> dict[Size, Path]:
    """Write graphs that share weights by name; each weight is written once. Empties their weights."""
    places: dict[str, tuple[int, int]] = {}
    paths = {size: folder / f"{size}.onnx" for size in graphs}
    with (folder / WEIGHTS).open("wb") as weights:
        for size, model in graphs.items():
            for tensor in model.graph.initializer:
                if len(tensor.raw_data) >= _SMALLEST_EXTERNAL:
                    if tensor.name not in places:
                        weights.write(b"\0" * (-weights.tell() % _PAGE))
                        places[tensor.name] = (weights.tell(), len(tensor.raw_data))
                        weights.write(tensor.raw_data)
                    _point(tensor, *places[tensor.name])
            paths[size].write_bytes(model.SerializeToString(deterministic=True))
    return paths


def _point(tensor: TensorProto, offset: int, length: int) -> None:
    """Let a tensor be read from the file of weights instead of the graph."""
    from onnx import TensorProto

    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def single_output(model: ModelProto, name: str) -> ModelProto:
    """Return the part of a graph that one output needs, with that output under its usual name.

    Parameters
    ----------
    model
        A graph with several outputs. It is not changed.
    name
        The output to keep; it becomes ``sentence_embedding``.
    """
    from onnx import ModelProto

    needed = {name}
    nodes = []
    # Nodes stand in the order in which they run, so one look from the end finds all that is needed.
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(_reads(node))
    part = ModelProto()
    part.CopyFrom(_shell(model))
    graph = part.graph
    graph.node.extend(reversed(nodes))
    graph.input.extend(model.graph.input)
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    graph.output.extend(output for output in model.graph.output if output.name == name)
    _rename(graph, name, OUTPUT)
    return part


def _reads(node: object) -> set[str]:
    """Return the names that a node reads, those of its subgraphs included."""
    from onnx import AttributeProto

    names = set(node.input)  # type: ignore[attr-defined]
    for attribute in node.attribute:  # type: ignore[attr-defined]
        if attribute.type == AttributeProto.GRAPH:
            names.update(name for inner in attribute.g.node for name in _reads(inner))
            names.update(output.name for output in attribute.g.output)
    return names


def _shell(model: ModelProto) -> ModelProto:
    """Return everything of a model but its graph: versions, operator sets, functions."""
    from onnx import ModelProto

    shell = ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            shell.graph.name = value.name
        elif field.is_repeated if hasattr(field, "is_repeated") else isinstance(value, list):
            getattr(shell, field.name).extend(value)
        else:
            setattr(shell, field.name, value)
    return shell


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for output in graph.output:
        if output.name == old:
            output.name = new
