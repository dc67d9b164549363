"""What every engine offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.size import Size

Vectors = NDArray[np.float32]


@runtime_checkable
class Engine(Protocol):
    """A loaded model that embeds texts at any of its sizes. Safe to share between threads."""

    @property
    def name(self) -> str:
        """Which engine it is, as ``"torch"``."""

    @property
    def precision(self) -> str:
        """What it computes in, as ``"bf16"``."""

    @property
    def device(self) -> str:
        """Where it runs, as ``"cpu"``."""

    @property
    def depth(self) -> int:
        """Number of layers."""

    @property
    def width(self) -> int:
        """Number of dims of the full vector."""

    @property
    def size(self) -> Size:
        """The size that is used when none is asked for."""

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes that the model shows by default; any other up to depth x width is served as well."""

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes of memory that serving this depth takes, for the depths ready to run."""

    def embed(
        self,
        texts: Sequence[str],
        size: str | Size | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> Vectors:
        """Return float32 [len(texts), dims], rows of unit length, in the order of the texts."""
