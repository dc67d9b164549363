"""Groups of texts side by side, each lane of groups on a core of its own, forward and backward.

The lanes meet twice a step: when the loss needs the vectors of all texts, and when their gradients are
added. Which group runs in which lane depends on their sizes and on the number of cores alone, and the lanes
are added in their order: the same cores give the same bits. With other cores the sums are those of the same
numbers, added in another order; dropout draws the same masks, which belong to the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from matryoshka2d.encoder.cores import core_count, side_by_side
from matryoshka2d.losses.dropout import SeededDropout

Result = TypeVar("Result")
Group = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Copies of the tensors that lanes do not share → the vectors of a group of texts."""


def run_in_lanes(
    groups: Sequence[Group], costs: Sequence[float], weights: Sequence[Tensor], own: Sequence[Tensor] = ()
) -> list[Sequence[Tensor]]:
    """Run groups of texts side by side; their gradients are computed side by side too.

    Parameters
    ----------
    groups
        What to run. A group draws its dropout from a seed of its own, which torch's generator gives.
    costs
        How long each takes, in any unit.
    weights
        The parameters that the groups read, which get their gradients as from one pass.
    own
        Tensors that the groups read and that other operations made; every group is handed copies.

    Returns
    -------
    list
        The vectors of each group.
    """
    seed = int(torch.randint(2**62, ()))
    lanes = divide(costs, core_count())
    parts = _Lanes.apply(lanes, groups, seed, len(own), *own, *weights)  # type: ignore[no-untyped-call]
    found: list[Sequence[Tensor]] = [()] * len(groups)
    start = 0
    for lane in lanes:
        for i in lane:
            found[i] = parts[start : start + len(parts) // len(groups)]
            start += len(found[i])
    return found


def divide(costs: Sequence[float], lanes: int) -> list[list[int]]:
    """Return which pieces each lane takes: the dearest first, to the lane that has the least to do.

    >>> divide([1, 2, 3, 5], lanes=2)
    [[3, 0], [2, 1]]
    """
    taken: list[list[int]] = [[] for _ in range(min(lanes, len(costs)))]
    loads = [0.0] * len(taken)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        lane = loads.index(min(loads))
        taken[lane].append(i)
        loads[lane] += costs[i]
    return taken


class _Lanes(torch.autograd.Function):
    """The vectors of all lanes, as one operation on the weights."""

    @staticmethod
    def forward(
        ctx: Any, lanes: list[list[int]], groups: Sequence[Group], seed: int, own: int, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the vectors of the groups, lane by lane, and keep what computed them."""
        settings = _Settings()
        leaves = [[one.detach().requires_grad_() for one in inputs[:own]] for _ in lanes]
        ran = _together(
            [
                partial(_forward, settings, [(seed + i, groups[i]) for i in lane], mine)
                for lane, mine in zip(lanes, leaves, strict=True)
            ]
        )
        ctx.graphs = list(zip(ran, leaves, strict=True))
        ctx.weights = inputs[own:]
        return tuple(vector.detach() for vectors in ran for vector in vectors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the tensors and weights that the groups read."""
        pieces, start = [], 0
        for vectors, leaves in ctx.graphs:
            some = gradients[start : start + len(vectors)]
            pieces.append(partial(_backward, vectors, some, [*leaves, *ctx.weights]))
            start += len(vectors)
        ctx.graphs = None
        first, *others = _together(pieces)
        for other in others:
            first = [_sum(one, more) for one, more in zip(first, other, strict=True)]
        return (None, None, None, None, *first)


def _together(lanes: Sequence[Callable[[], Result]]) -> list[Result]:
    """Return what each lane gives; a single one runs in the calling thread, on all its cores."""
    return [lanes[0]()] if len(lanes) == 1 else list(side_by_side(lambda lane: lane(), lanes))


class _Settings:
    """The calling thread's mixed precision, for another thread to take on."""

    def __init__(self) -> None:
        self.on = torch.is_autocast_enabled("cpu")
        self.dtype = torch.get_autocast_dtype("cpu")

    def taken(self) -> torch.autocast:
        """Return a context with these settings."""
        return torch.autocast("cpu", dtype=self.dtype, enabled=self.on)


def _forward(settings: _Settings, groups: list[tuple[int, Group]], leaves: list[Tensor]) -> list[Tensor]:
    """Run the groups of one lane."""
    found: list[Tensor] = []
    for seed, group in groups:
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(settings.taken())
            stack.enter_context(SeededDropout(seed))
            found += group(leaves)
    return found


def _backward(
    vectors: list[Tensor], gradients: Sequence[Tensor], inputs: list[Tensor]
) -> list[Tensor | None]:
    """Return the gradients of one lane's inputs, None for those that it did not read."""
    learned = [i for i, vector in enumerate(vectors) if vector.requires_grad]
    if not learned:
        return [None] * len(inputs)
    return list(
        torch.autograd.grad(
            [vectors[i] for i in learned], inputs, [gradients[i] for i in learned], allow_unused=True
        )
    )


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one.add_(other)
