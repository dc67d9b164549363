"""The OpenVINO engine, for processors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matryoshka2d.encoder.precision import best_precision, resolve_precision
from matryoshka2d.errors import UserError, needs
from matryoshka2d.inference.depths import Depths
from matryoshka2d.inference.engine import Loaded, Vectors
from matryoshka2d.inference.graphs import feeds, graph_files
from matryoshka2d.inference.request_batching import BatchingEngine, Shape
from matryoshka2d.inference.tokens import TextTokenizer, Tokens

_BUDGET = 2048
_WASTE = 0.1
_HINTS = {"fp32": "f32", "bf16": "bf16"}


def open_openvino(model: Loaded, precision: str, calibration: Sequence[str] | None = None) -> BatchingEngine:
    """Put a loaded model into OpenVINO."""
    needs("openvino", "openvino", "onnx", "onnxscript")
    if precision == "fp16":
        raise UserError("the openvino engine has no fp16 on a processor: choose auto, fp32, bf16 or int8")
    chosen = precision if precision == "int8" else resolve_precision(precision, "cpu").name
    encoder = model.encoder
    shape = Shape(encoder.depth, encoder.width, encoder.size, encoder.sizes)
    tokenizer = TextTokenizer(encoder)
    files = graph_files(encoder, int8=precision == "int8", calibration=calibration)
    threads = os.cpu_count() or 1
    return BatchingEngine(
        OpenVinoRunner(files, chosen, tokenizer.fill, threads), tokenizer, shape, threads=threads
    )


class OpenVinoRunner:
    """Runs graphs in OpenVINO, a depth compiled when first asked for.

    Parameters
    ----------
    files
        layers → graph.
    precision
        ``"fp32"``, ``"bf16"`` or ``"int8"``.
    fill
        Id of the padding token.
    threads
        Batches that run side by side, each on one core.
    """

    name = "openvino"
    device = "cpu"
    budget = _BUDGET
    waste: float | None = _WASTE

    def __init__(self, files: Mapping[int, Path], precision: str, fill: int, threads: int) -> None:
        import openvino

        self.files = files
        self.precision = precision
        self.fill = fill
        self.core = openvino.Core()
        between = best_precision("cpu").name if precision == "int8" else precision
        self.settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[between],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
        }
        self.depths: Depths[Any] = Depths(self._compile)

    def _compile(self, layers: int) -> Any:
        return self.core.compile_model(str(self.files[layers]), "CPU", self.settings)

    def run(self, tokens: Tokens, layers: int) -> Vectors:
        """Return float32 [texts, width]."""
        compiled = self.depths[layers]
        names = [given.any_name for given in compiled.inputs]
        # A request of its own for each call: requests are cheap, and may not be shared between threads.
        outputs = compiled.create_infer_request().infer(feeds(names, tokens, self.fill))
        return np.array(outputs[0], dtype=np.float32)

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes by which the process grew when that depth was compiled."""
        return self.depths.memory()
