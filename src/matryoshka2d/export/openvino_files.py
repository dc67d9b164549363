"""OpenVINO reads the ONNX graphs; written as its own files, one pair a size."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.errors import needs
from matryoshka2d.export.graph import exit_graph
from matryoshka2d.export.onnx_files import single_output, write_graphs
from matryoshka2d.export.quantization import with_eight_bit_weights
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder


def openvino_model(graph: str | Path) -> Any:
    """Read a graph that `write_onnx` wrote as an ``openvino.Model``, not yet compiled for a device.

    Parameters
    ----------
    graph
        The ``.onnx`` file; its weights stand beside it and must stay there until the model is compiled.

    Returns
    -------
    openvino.Model
        Inputs and output as those of the graph.

    Raises
    ------
    UserError
        If OpenVINO is not installed.
    """
    needs("openvino", "openvino")
    import openvino

    return openvino.convert_model(str(graph))


def write_openvino(
    encoder: ElasticEncoder, size: str | Size, folder: str | Path, *, precision: str = "fp32"
) -> Path:
    """Write a size as OpenVINO's ``.xml`` and ``.bin``.

    Parameters
    ----------
    encoder
        The encoder. It is not changed.
    size
        The size, as ``"3x128"``.
    folder
        Where to write; it must exist.
    precision : {"fp32", "fp16", "int8"}
        Of the stored weights. The arithmetic is chosen when OpenVINO compiles the model: it takes bf16
        where the processor has units for it, unless the hint INFERENCE_PRECISION_HINT says f32.

    Returns
    -------
    Path
        The ``.xml`` file, named after the size.

    Raises
    ------
    UserError
        If the model lacks the size, or OpenVINO or ONNX is not installed.
    """
    needs("openvino", "openvino", "onnx", "onnxscript")
    wanted = encoder.check(size)
    whole = exit_graph(encoder, [wanted])
    if precision == "int8":
        whole = with_eight_bit_weights(whole)
    path = Path(folder) / f"{wanted}.xml"
    with tempfile.TemporaryDirectory() as beside:
        graph = write_graphs({wanted: single_output(whole, str(wanted))}, Path(beside))[wanted]
        save_openvino(openvino_model(graph), path, precision)
    return path


def save_openvino(model: Any, path: Path, precision: str) -> None:
    """Write a model as ``.xml`` and, beside it, ``.bin``."""
    import openvino

    # OpenVINO says that writing failed, not why; moving the files there does.
    with tempfile.TemporaryDirectory() as beside:
        written = Path(beside) / path.name
        openvino.save_model(model, str(written), compress_to_fp16=precision == "fp16")
        for file in (written, written.with_suffix(".bin")):
            shutil.move(file, path.parent / file.name)
