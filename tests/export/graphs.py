"""Running exported graphs with nothing but the libraries that users run them with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino

from matryoshka2d.encoder.elastic import ElasticEncoder


def inputs_for(encoder: ElasticEncoder, texts: Sequence[str], prompt: str | None = None) -> dict[str, Any]:
    """Return what the tokenizer gives, and the prompt's length as the graph wants it."""
    features = encoder.preprocess(texts, prompt=prompt)
    inputs = {name: value.numpy() for name, value in features.items() if hasattr(value, "numpy")}
    return {**inputs, "prompt_length": np.array([features.get("prompt_length") or 0])}


def in_onnxruntime(graph: Path, inputs: dict[str, Any]) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    named = {wanted.name: inputs[wanted.name] for wanted in session.get_inputs()}
    (vectors,) = session.run(["sentence_embedding"], named)
    return vectors


def in_openvino(graph: Path, inputs: dict[str, Any]) -> np.ndarray:
    # A processor with units for bf16 would otherwise compute in bf16.
    model = openvino.Core().compile_model(str(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    named = {wanted.get_any_name(): inputs[wanted.get_any_name()] for wanted in model.inputs}
    vectors: np.ndarray = model(named)["sentence_embedding"]
    return vectors


RUNTIMES = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}
