"""Fast inference at any size: one protocol, several engines, one set of weights.

`open_engine` is the way in; every engine computes the function of `ElasticEncoder.encode`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matryoshka2d.lazy import lazy_names

if TYPE_CHECKING:
    from matryoshka2d.inference.encoding import embed_stream as embed_stream
    from matryoshka2d.inference.encoding import encode as encode
    from matryoshka2d.inference.engine import Engine as Engine
    from matryoshka2d.inference.engine import open_engine as open_engine
    from matryoshka2d.inference.engine_exits import open_exits as open_exits
else:
    # A first vector must not wait for what reads and writes files, nor for what the other engines need.
    __getattr__, __all__ = lazy_names(__name__)
