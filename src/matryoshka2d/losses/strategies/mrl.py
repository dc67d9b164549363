"""Matryoshka representation learning: every width of the last layer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from matryoshka2d.losses.strategies.base import Shape, StepPlan, Term
from matryoshka2d.losses.strategies.sampling import narrower_dims


@dataclass(frozen=True)
class MRL:
    """Every width of the last layer, each with weight 1: plain Matryoshka, for models that keep all layers.

    Parameters
    ----------
    dims
        Widths to train beside the full one, default the powers of two from 8 and half the width. List
        only those that you will ship: fewer widths leave more of the loss to each.

    Raises
    ------
    UserError
        When planning, if one of the dims is below 1 or wider than the model.

    References
    ----------
    Kusupati et al. 2022, arXiv 2205.13147.

    Examples
    --------
    >>> plan = MRL(dims=(64, 128)).plan(Shape(layers=6, dims=384), random.Random(0))
    >>> [(term.layers, term.dims) for term in plan.terms]
    [(6, 384), (6, 64), (6, 128)]
    """

    dims: tuple[int, ...] = ()

    def plan(self, shape: Shape, rng: random.Random) -> StepPlan:  # noqa: ARG002
        """Return the objective at every width of the last layer."""
        dims = (shape.dims, *narrower_dims(self.dims, shape.dims))
        return StepPlan(tuple(Term(shape.layers, d) for d in dims))
