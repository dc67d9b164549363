"""What the batching asks of an engine: run one batch of tokens through so many layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from matryoshka2d.inference.engine import Vectors
from matryoshka2d.inference.tokens import Tokens


class Runner(Protocol):
    """One loaded model. `run` may be called from several threads at once."""

    name: str
    precision: str
    device: str
    budget: int
    """Tokens a batch."""
    waste: float | None
    """Largest share of a batch that may be padding; None where texts of any lengths run without padding."""

    def run(self, tokens: Tokens, layers: int) -> Vectors:
        """Return float32 [texts, width]: an exit after its head, neither cut nor normalised."""

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes of memory that serving this depth takes, for the depths ready to run."""
