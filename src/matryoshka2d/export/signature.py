"""What every exported graph takes and gives, and the record beside it, without what writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OPSET = 20
"""The ONNX operator set of every graph: the first with Gelu as one operator; ONNX Runtime 1.17 and newer."""

OUTPUT = "sentence_embedding"
"""The output of a graph of one size: float32 [batch, dims], of unit length."""

PROMPT_LENGTH = "prompt_length"
"""An input that only models have whose pooling leaves the prompt out: int64 [1], 0 without a prompt."""

RECORD = "export.json"
"""What an export says of itself: where it came from, how it agrees, what it costs, what made it."""


def export_record(folder: str | Path) -> dict[str, Any]:
    """Return what an export says of itself; nothing where a folder is no export."""
    try:
        found = json.loads(Path(folder, RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_onnx_export(model: str | Path) -> bool:
    """Return whether a model is a folder that ``export --format onnx`` wrote.

    >>> is_onnx_export("default")
    False
    """
    return export_record(model).get("format") == "onnx"
