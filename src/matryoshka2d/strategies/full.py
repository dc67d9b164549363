"""Train the full size alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

from matryoshka2d.strategies.base import Shape, StepPlan, Term


@dataclass(frozen=True)
class Full:
    """Only the full size, as if there were no other: the baseline that an elastic model is held against.

    Examples
    --------
    >>> Full().plan(Shape(layers=6, dims=384), random.Random(0)).terms
    (Term(layers=6, dims=384, weight=1.0),)
    """

    def plan(self, shape: Shape, rng: random.Random) -> StepPlan:  # noqa: ARG002
        """Return the objective at full size."""
        return StepPlan((Term(shape.layers, shape.dims),))
