"""Several processes, one batch: each embeds its own rows, and each computes the loss of all rows.

In-batch negatives, and the rankings of CoSENT and AnglE, compare every row of a batch with every other. So
the vectors of all processes are brought together before the loss, which is then that of one process with the
whole batch.

The gradient goes to a process's own rows only, times the number of processes: data-parallel training takes
the mean of the processes' gradients, and that mean is then the gradient of the whole batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """Return how many processes train together.

    >>> processes()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def whole_batch(
    exits: Mapping[int, Sequence[Tensor]], labels: Tensor | None
) -> tuple[Mapping[int, Sequence[Tensor]], Tensor | None]:
    """Return the rows of all processes, in the order of their ranks; one process has all rows already.

    Parameters
    ----------
    exits
        layer → a float tensor [rows, width] for every text column: this process's own rows. The number of
        columns, layers and dims is the same everywhere; that of the rows need not be.
    labels
        Tensor [rows, …] or none.
    """
    if processes() == 1:
        return exits, labels
    counts = _counts(next(iter(exits.values()))[0])
    # One exchange for all exits and columns: [rows, exits * columns, width].
    together = torch.stack([column for columns in exits.values() for column in columns], dim=1)
    parts = iter(_AllRows.apply(together, counts).unbind(dim=1))  # type: ignore[no-untyped-call]
    whole = {n: [next(parts) for _ in columns] for n, columns in exits.items()}
    return whole, None if labels is None else _all_rows(labels, counts)


@contextlib.contextmanager
def same_chance(seed: int, device: torch.device) -> Iterator[None]:
    """Let all processes draw the same random numbers; afterwards each goes on with its own.

    Dropout differs between processes, as it does between the rows of a batch. What the loss itself draws must
    not: the processes would differentiate different functions.

    Parameters
    ----------
    seed
        The same number everywhere, another one for every step.
    device
        Where the loss is computed.
    """
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield


class _AllRows(torch.autograd.Function):
    """All rows, whose gradient goes back to the own ones, times the number of processes."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: list[int]) -> Tensor:
        ctx.start, ctx.rows = sum(counts[: dist.get_rank()]), len(own)
        return _all_rows(own, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.start : ctx.start + ctx.rows] * processes(), None


def _counts(own: Tensor) -> list[int]:
    """Return how many rows each process has."""
    count = torch.tensor([len(own)], device=own.device)
    counts = [torch.empty_like(count) for _ in range(processes())]
    dist.all_gather(counts, count)
    return [int(count) for count in counts]


def _all_rows(own: Tensor, counts: list[int]) -> Tensor:
    # Tensors that are exchanged must have one shape; what fills them up is cut off again.
    filled = own.new_zeros((max(counts), *own.shape[1:]))
    filled[: len(own)] = own.detach()
    everyones = [torch.empty_like(filled) for _ in counts]
    dist.all_gather(everyones, filled)
    return torch.cat([rows[:count] for rows, count in zip(everyones, counts, strict=True)])
