"""Models whose vectors are known: what the evaluation is tested against."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class FakeExits:
    """A model that gives the same random vector for the same text, another at every exit.

    Vectors may be named; texts without one get a random one.
    """

    def __init__(self, depth: int = 3, width: int = 16, named: Mapping[str, Any] | None = None) -> None:
        self.depth = depth
        self.width = width
        self.named = dict(named or {})
        self.calls: list[list[str]] = []
        self.heard: list[str | None] = []

    def exits(
        self, texts: Sequence[str], *, layers: Sequence[int] | None = None, **options: Any
    ) -> dict[int, NDArray[np.float32]]:
        self.calls.append(list(texts))
        self.heard.append(options.get("prompt") or options.get("prompt_name"))
        wanted = layers or range(1, self.depth + 1)
        return {n: np.stack([self.vector(text, n) for text in texts]) for n in wanted}

    def vector(self, text: str, layer: int) -> NDArray[np.float32]:
        seed = zlib.crc32(f"{layer} {text}".encode())
        raw = self.named.get(text, np.random.default_rng(seed).normal(size=self.width))
        return np.asarray(raw / np.linalg.norm(raw), dtype=np.float32)


class FakeSentenceTransformer:
    """Something with an ``encode`` and nothing else that the evaluation may use."""

    def __init__(self, width: int = 16) -> None:
        self.fake = FakeExits(depth=1, width=width)

    def encode(self, texts: Sequence[str], **options: Any) -> NDArray[np.float32]:
        return self.fake.exits(texts)[1]


def plain_cosine(left: NDArray[Any], right: NDArray[Any], dims: int) -> float:
    """Return the cosine of two vectors, cut first and normalized after, as anyone would write it."""
    a, b = (np.asarray(side[:dims], dtype=np.float64) for side in (left, right))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
