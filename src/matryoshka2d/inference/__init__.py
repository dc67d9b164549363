"""Fast inference at any size: one protocol, several engines, one set of weights.

`open_engine` is the way in; every engine computes the function of `ElasticEncoder.encode`.
"""

from __future__ import annotations

from matryoshka2d.inference.encoding import embed_stream, encode
from matryoshka2d.inference.engine import Engine, open_engine
from matryoshka2d.inference.engine_exits import open_exits

__all__ = [
    "Engine",
    "embed_stream",
    "encode",
    "open_engine",
    "open_exits",
]
