"""Fast inference at any size: one protocol, several engines, one set of weights.

`open_engine` is the way in; every engine computes the function of `ElasticEncoder.encode`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matryoshka2d.inference.encoding import embed_stream, encode
    from matryoshka2d.inference.engine import Engine, open_engine
    from matryoshka2d.inference.engine_exits import open_exits

_HOMES = {
    "Engine": "engine",
    "embed_stream": "encoding",
    "encode": "encoding",
    "open_engine": "engine",
    "open_exits": "engine_exits",
}

__all__ = [
    "Engine",
    "embed_stream",
    "encode",
    "open_engine",
    "open_exits",
]


def __getattr__(name: str) -> Any:
    # A first vector must not wait for what reads and writes files, nor for what the other engines need.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
