"""One sentence-embedding model, any depth, any width."""

from __future__ import annotations

__version__ = "0.1.0"
