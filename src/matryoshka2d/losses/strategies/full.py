"""Train one size alone: the full one, or the last layer at fewer dims."""

from __future__ import annotations

import random
from dataclasses import dataclass

from matryoshka2d.losses.strategies.base import Shape, StepPlan, Term
from matryoshka2d.options import require_positive
from matryoshka2d.size import Size


@dataclass(frozen=True)
class Full:
    """Only the full size, as if there were no other: the baseline that an elastic model is held against.

    Parameters
    ----------
    dims
        Train the last layer at so many dims alone, default all of them. Name fewer for a model that is only
        ever used at that width.

    Raises
    ------
    UserError
        If dims is not above 0, or, when planning, more than the model has.

    Examples
    --------
    >>> Full().plan(Shape(layers=6, dims=384), random.Random(0)).terms
    (Term(layers=6, dims=384, weight=1.0, documents=None),)
    """

    dims: int | None = None

    def __post_init__(self) -> None:
        if self.dims is not None:
            require_positive(self, "dims")

    def plan(self, shape: Shape, rng: random.Random) -> StepPlan:  # noqa: ARG002
        """Return the objective at that one size."""
        size = Size(shape.layers, self.dims or shape.dims).check(shape.layers, shape.dims)
        return StepPlan((Term(size.layers, size.dims),))
