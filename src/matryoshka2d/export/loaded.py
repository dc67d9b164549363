"""An export loaded again, as its user would: with the libraries of its format and nothing of this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.export.graph import OUTPUT, PROMPT_LENGTH

Vectors = NDArray[np.float32]


class Loaded(Protocol):
    """What a loaded export offers: texts, and a prompt to put before them, → vectors."""

    def __call__(self, texts: Sequence[str], prompt: str = "") -> Vectors:
        """Return float32 [texts, dims]."""


def load_sentence_transformers(folder: Path, _name: str) -> Loaded:
    """Load a folder by stock sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")

    def embed(texts: Sequence[str], prompt: str = "") -> Vectors:
        vectors = model.encode(list(texts), prompt=prompt, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    return embed


def load_onnx(folder: Path, name: str) -> Loaded:
    """Load a graph by ONNX Runtime, and ``tokenizer.json`` beside it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    inputs = [one.name for one in session.get_inputs()]
    return _tokenized(folder, inputs, lambda tensors: session.run([OUTPUT], tensors)[0])


def load_openvino(folder: Path, name: str) -> Loaded:
    """Load OpenVINO's files, computing in fp32, and ``tokenizer.json`` beside them."""
    import openvino

    # Where the processor has units for bf16, OpenVINO would take them.
    model = openvino.Core().compile_model(str(folder / name), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    inputs = [one.get_any_name() for one in model.inputs]
    return _tokenized(folder, inputs, lambda tensors: model(tensors)[OUTPUT])


def _tokenized(folder: Path, inputs: Sequence[str], run: Callable[[dict[str, Any]], Any]) -> Loaded:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def length_of(prompt: str) -> int:
        found = tokenizer.encode(prompt)
        # The mark that ends a text does not end the prompt.
        return len(found.ids) - found.special_tokens_mask[-1]

    def embed(texts: Sequence[str], prompt: str = "") -> Vectors:
        batch = tokenizer.encode_batch([prompt + text for text in texts])
        tensors = {
            "input_ids": np.array([one.ids for one in batch], dtype=np.int64),
            "attention_mask": np.array([one.attention_mask for one in batch], dtype=np.int64),
            "token_type_ids": np.array([one.type_ids for one in batch], dtype=np.int64),
            PROMPT_LENGTH: np.array([length_of(prompt) if prompt else 0], dtype=np.int64),
        }
        return np.asarray(run({one: tensors[one] for one in inputs}), dtype=np.float32)

    return embed
