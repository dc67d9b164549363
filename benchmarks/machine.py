"""The machine that a figure was measured on, as its reader needs it."""

from __future__ import annotations

from matryoshka2d_reproduction.machine import facts, processor

__all__ = ["facts", "processor"]
