"""The model at every size: its layers, its heads, how it is found by name, its precision and its codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder

__all__ = ["ElasticEncoder"]


def __getattr__(name: str) -> Any:
    # The precisions and codes of this room are needed where torch is not.
    if name == "ElasticEncoder":
        from matryoshka2d.encoder.elastic import ElasticEncoder

        return ElasticEncoder
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
