"""Groups of texts side by side, each lane of groups on a core of its own, forward and backward.

The lanes meet twice a step: when the loss needs the vectors of all texts, and when their gradients are
added. Which group runs in which lane depends on their sizes and on the number of cores alone, and the lanes
are added in their order: the same cores give the same bits. With other cores the sums are those of the same
numbers, added in another order; dropout draws the same masks, which belong to the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    groups: Sequence[Group],
    costs: Sequence[float],
    weights: Sequence[Tensor],
    own: Sequence[Tensor] = (),
    *,
    replay: bool = False,
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
    replay
        Whether a group leaves nothing in memory but its vectors, and runs again in the backward pass: see
        `losses.gradient_cache`. A lane then holds one group at a time.

    Returns
    -------
    list
        The vectors of each group.
    """
    seed = int(torch.randint(2**62, ()))
    divided = divide(costs, core_count())
    settings = _Settings()
    lanes = [
        _Lane([(seed + i, groups[i]) for i in taken], [_leaf(one) for one in own], settings, replay)
        for taken in divided
    ]
    parts = _Lanes.apply(lanes, len(own), *own, *weights)  # type: ignore[no-untyped-call]
    found: list[Sequence[Tensor]] = [()] * len(groups)
    start = 0
    for taken in divided:
        for i in taken:
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
    def forward(ctx: Any, lanes: list[_Lane], own: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the vectors of the groups, lane by lane, and keep what computes their gradients."""
        ran = _together([lane.run for lane in lanes])
        ctx.lanes = list(zip(lanes, map(len, ran), strict=True))
        ctx.weights = inputs[own:]
        return tuple(vector for vectors in ran for vector in vectors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the tensors and weights that the groups read."""
        pieces, start = [], 0
        for lane, count in ctx.lanes:
            pieces.append(partial(lane.gradients, gradients[start : start + count], ctx.weights))
            start += count
        ctx.lanes = None
        first, *others = _together(pieces)
        for other in others:
            first = _added(first, other)
        return (None, None, *first)


class _Lane:
    """Groups that run one after the other on one core.

    Parameters
    ----------
    groups
        Seed and group.
    leaves
        Its copies of the tensors that lanes do not share.
    settings
        Those of the calling thread.
    replay
        Whether groups run again in the backward pass.
    """

    def __init__(
        self, groups: list[tuple[int, Group]], leaves: list[Tensor], settings: _Settings, replay: bool
    ) -> None:
        self.groups, self.leaves, self.settings, self.replay = groups, leaves, settings, replay
        self.vectors: list[Tensor] = []

    def run(self) -> list[Tensor]:
        """Return the vectors of all groups, without what made them."""
        found = [vector for group in self.groups for vector in self._run(group, learns=not self.replay)]
        self.vectors = [] if self.replay else found
        return [vector.detach() for vector in found]

    def gradients(self, given: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the gradients of its copies and of the weights, None for those that no group read."""
        inputs = [*self.leaves, *weights]
        if not self.replay:
            return _backward(self.vectors, given, inputs)
        found: list[Tensor | None] = [None] * len(inputs)
        each = len(given) // len(self.groups)
        for i, group in enumerate(self.groups):
            vectors = self._run(group, learns=True)
            found = _added(found, _backward(vectors, given[i * each : (i + 1) * each], inputs))
        return found

    def _run(self, group: tuple[int, Group], *, learns: bool) -> Sequence[Tensor]:
        seed, run = group
        with torch.set_grad_enabled(learns), self.settings.taken(), SeededDropout(seed):
            return run(self.leaves)


def _leaf(tensor: Tensor) -> Tensor:
    """Return a copy that gathers a gradient of its own."""
    return tensor.detach().requires_grad_()


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


def _backward(
    vectors: Sequence[Tensor], gradients: Sequence[Tensor], inputs: list[Tensor]
) -> list[Tensor | None]:
    """Return the gradients of inputs, None for those that no vector read."""
    learned = [i for i, vector in enumerate(vectors) if vector.requires_grad]
    if not learned:
        return [None] * len(inputs)
    return list(
        torch.autograd.grad(
            [vectors[i] for i in learned], inputs, [gradients[i] for i in learned], allow_unused=True
        )
    )


def _added(some: list[Tensor | None], others: list[Tensor | None]) -> list[Tensor | None]:
    """Add gradients to others, in place where both are there."""
    return [
        (other if one is None else one) if one is None or other is None else one.add_(other)
        for one, other in zip(some, others, strict=True)
    ]
