"""What the batching asks of an engine: run one batch of tokens through so many layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class MixingRunner(Runner, Protocol):
    """A runner whose texts may leave one batch after different layers."""

    def leaving(self, tokens: Tokens, depths: Sequence[int]) -> Iterator[Vectors]:
        """Yield float32 [texts, width] of the texts that leave, those at the end of the batch first.

        `depths` says after how many layers each text leaves, in descending order.
        """
