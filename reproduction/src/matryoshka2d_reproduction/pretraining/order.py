"""The order of the texts: at random, but those of a batch are of similar length: little is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from matryoshka2d.losses.strategies import StepRandom

_BATCHES_A_POOL = 50
"""Batches whose texts are sorted among themselves: many for little padding, few for a random order."""


class SimilarLengths(Sampler[int]):
    """Row numbers in the order in which an epoch sees them: a function of the seed and the epoch alone.

    Parameters
    ----------
    texts
        The texts; characters stand for tokens, which need not be counted for this.
    batch_size
        Texts a batch.
    seed
        Seed of the run.

    Attributes
    ----------
    epoch
        Which epoch is asked for next.
    """

    def __init__(self, texts: Sequence[str], batch_size: int, seed: int) -> None:
        self.lengths = torch.tensor([len(text) for text in texts])
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = torch.Generator().manual_seed(StepRandom(self.seed, self.epoch).getrandbits(63))
        return iter(similar_lengths(self.lengths, self.batch_size, rng))


def similar_lengths(lengths: Tensor, batch_size: int, rng: torch.Generator) -> list[int]:
    """Return all row numbers, batch after batch; the batches are in random order, one that is not full last.

    Parameters
    ----------
    lengths
        Int64 [rows].
    batch_size
        Rows a batch.
    rng
        Where the order comes from.

    Examples
    --------
    >>> order = similar_lengths(torch.tensor([9, 1, 9, 1]), 2, torch.Generator().manual_seed(0))
    >>> sorted(order[:2]) in ([0, 2], [1, 3]), sorted(order)
    (True, [0, 1, 2, 3])
    """
    drawn = torch.randperm(len(lengths), generator=rng)
    full = len(drawn) // batch_size * batch_size
    pools = torch.split(drawn[:full], _BATCHES_A_POOL * batch_size)
    batches = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in pools]).view(-1, batch_size)
    shuffled = batches[torch.randperm(len(batches), generator=rng)]
    return [*shuffled.flatten().tolist(), *drawn[full:].tolist()]
