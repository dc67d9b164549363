"""The model at every size: its layers, its heads, how it is found by name, its precision and its codes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matryoshka2d.encoder.architectures import Wrapped, is_causal, layers_of
    from matryoshka2d.encoder.default_model import default_model_path, resolve_model
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.encoder.loading import check_model, in_one_line, transformer_folder
    from matryoshka2d.encoder.precision import Precision, resolve_precision

_HOMES = {
    "architectures": (
        "Wrapped",
        "is_causal",
        "layers_of",
    ),
    "elastic": ("ElasticEncoder",),
    "default_model": ("default_model_path", "resolve_model"),
    "loading": ("check_model", "in_one_line", "transformer_folder"),
    "precision": (
        "Precision",
        "resolve_precision",
    ),
}

__all__ = [
    "ElasticEncoder",
    "Precision",
    "Wrapped",
    "check_model",
    "default_model_path",
    "in_one_line",
    "is_causal",
    "layers_of",
    "resolve_model",
    "resolve_precision",
    "transformer_folder",
]


def __getattr__(name: str) -> Any:
    # The precisions and codes of this room are needed where torch is not.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
