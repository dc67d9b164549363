"""One process that serves every size: OpenAI's embeddings API with depth, and a page to try it."""

from __future__ import annotations

from matryoshka2d.serving.options import ServeOptions
from matryoshka2d.serving.server import serve

__all__ = ["ServeOptions", "serve"]
