"""A size → a folder that other software loads: ONNX, OpenVINO, sentence-transformers."""

from __future__ import annotations

from matryoshka2d.export.graph import OPSET, OUTPUT
from matryoshka2d.export.onnx_files import write_onnx
from matryoshka2d.export.openvino_files import openvino_model, write_openvino

__all__ = ["OPSET", "OUTPUT", "openvino_model", "write_onnx", "write_openvino"]
