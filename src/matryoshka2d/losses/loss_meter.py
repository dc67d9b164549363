"""The loss of every size while training: summed up on the device, read only when the trainer logs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SizeLosses:
    """Running means of named losses; adding costs no wait for the device, reading costs one.

    Examples
    --------
    >>> losses = SizeLosses()
    >>> losses.add(["loss/1x8", "loss/2x8"], [torch.tensor(1.0), torch.tensor(4.0)])
    >>> losses.add(["loss/1x8"], [torch.tensor(3.0)])
    >>> losses.take()
    {'loss/1x8': 2.0, 'loss/2x8': 4.0}
    >>> losses.take()
    {}
    """

    def __init__(self) -> None:
        # A strategy that draws sizes has other names in every step: one sum for each set of names.
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._steps: dict[tuple[str, ...], int] = {}

    def add(self, names: Sequence[str], values: Sequence[Tensor]) -> None:
        """Add the losses of one step: scalars or vectors on the same device, a number for each name."""
        if not values:
            return
        key = tuple(names)
        step = torch.cat([value.detach().float().reshape(-1) for value in values])
        self._sums[key] = self._sums[key] + step if key in self._sums else step
        self._steps[key] = self._steps.get(key, 0) + 1

    def take(self) -> dict[str, float]:
        """Return the mean of each name over the steps that had it, and start anew."""
        if not self._sums:
            return {}
        flat = torch.cat(list(self._sums.values())).tolist()
        totals: dict[str, float] = {}
        steps: dict[str, int] = {}
        named = ((name, self._steps[key]) for key in self._sums for name in key)
        for (name, count), value in zip(named, flat, strict=True):
            totals[name] = totals.get(name, 0.0) + value
            steps[name] = steps.get(name, 0) + count
        self._sums, self._steps = {}, {}
        return {name: total / steps[name] for name, total in totals.items()}
