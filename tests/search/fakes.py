"""An engine without a network: a text is the sum of its words, and inner layers lie near the last."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from matryoshka2d.search.documents import Document
from matryoshka2d.size import Size


class FakeEngine:
    """Vectors of words; deterministic, and quick.

    ``spread`` is how far inner layers lie from the last one; ``seed`` makes another model; ``turn`` rotates
    its space.
    """

    name, precision, device = "torch", "fp32", "cpu"

    def __init__(
        self, depth: int = 3, width: int = 48, *, seed: int = 0, spread: float = 0.3, turn: bool = False
    ) -> None:
        self.depth, self.width, self.size = depth, width, Size(depth, width)
        self.sizes = (self.size,)
        self.tokenizer = SimpleNamespace(prompts={"query": "find : "}, default_prompt_name=None)
        self.seed, self.spread = seed, spread
        self.texts: list[str] = []
        rng = np.random.default_rng(99)
        self._turn = np.linalg.qr(rng.standard_normal((width, width)))[0] if turn else np.eye(width)

    def memory(self) -> Mapping[int, int]:
        return {}

    def embed(
        self,
        texts: Sequence[str],
        size: str | Size | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> Any:
        wanted = self.size if size is None else Size.parse(size)
        self.texts += texts
        out = np.stack([self._vector(text, wanted.layers) for text in texts])[:, : wanted.dims]
        return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)

    def _vector(self, text: str, layers: int) -> Any:
        words = [self._word(word, 0) for word in text.split() or [""]]
        noise = self.spread * (self.depth - layers) * self._word(text, layers)
        return (np.sum(words, axis=0) / np.sqrt(len(words)) + noise) @ self._turn

    def _word(self, word: str, salt: int) -> Any:
        return _word_vector(f"{self.seed} {salt} {word}", self.width)


@cache
def _word_vector(name: str, width: int) -> Any:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.standard_normal(width) / np.sqrt(1 + np.arange(width) / 8)


WORDS = ["red", "blue", "green", "old", "new", "big", "warm", "cold", "cat", "dog", "bird", "tree", "house"]


def documents(count: int, seed: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [
        Document(
            f"d{number}",
            " ".join(rng.choice(WORDS, size=6)) + f" {number}",
            {"lang": "en" if number % 3 else "de", "year": 2000 + number % 5, "open": number % 2 == 0},
        )
        for number in range(count)
    ]


def unit(rows: int, dims: int, seed: int = 0) -> Any:
    """Return random vectors whose first coordinates are the larger ones, float32 of unit length."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((rows, dims)) / np.sqrt(1 + np.arange(dims) / 4)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
