"""A size → a folder that other software loads: ONNX, OpenVINO, sentence-transformers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matryoshka2d.export.onnx_files import write_onnx
    from matryoshka2d.export.openvino_files import openvino_model, write_openvino
    from matryoshka2d.export.signature import OPSET, OUTPUT

_HOMES = {
    "OPSET": "signature",
    "OUTPUT": "signature",
    "openvino_model": "openvino_files",
    "write_onnx": "onnx_files",
    "write_openvino": "openvino_files",
}

__all__ = ["OPSET", "OUTPUT", "openvino_model", "write_onnx", "write_openvino"]


def __getattr__(name: str) -> Any:
    # Who opens an export must not wait for what writes one.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
