"""All sizes every step, the smaller ones taught by the full one: the default."""

from __future__ import annotations

import random
from dataclasses import dataclass

from matryoshka2d.registry import require_not_negative, require_positive
from matryoshka2d.size import Size, default_sizes
from matryoshka2d.strategies.alignment import SimilarityKL
from matryoshka2d.strategies.base import Pull, Shape, StepPlan, Term


@dataclass(frozen=True)
class AllSizes:
    """Every size every step: the full one learns from the data, the others also from the full one.

    The full size has weight 1. Over the other sizes, averaged and times `inner_weight`:
    ``objective_weight * objective + alignment_weight * KL`` of in-batch similarities, from the full size,
    which gets no gradient from it. One pass of the encoder serves all of them.

    Parameters
    ----------
    sizes
        Sizes to train beside the full one, default every layer at the powers of two from 8, half the
        width and the full width. List those that you may ship: fewer sizes leave more of the loss to each.
    inner_weight
        Weight of all other sizes together, default 1. Lower it when the full size loses quality,
        raise it when the small ones matter most.
    objective_weight
        Weight of the objective at the other sizes, default 0.5. Raise it when there are many
        good labels, lower it, even to 0, when labels are noisy or few.
    alignment_weight
        Weight of the similarities of the full size, default 1. Lower it when the full size starts
        untrained and has little to teach.
    temperature
        Temperature of the similarities, default 0.05. Raise it to match the whole ranking, lower it to match
        the nearest neighbours only.

    Raises
    ------
    UserError
        If a weight is negative, the temperature is not above 0, or, when planning, the model lacks a size.

    References
    ----------
    All sizes every step: Starbucks, arXiv 2410.13230. The largest size teaches the others: the sandwich
    rule with in-place distillation of Yu and Huang 2019, arXiv 1903.05134.

    Examples
    --------
    >>> plan = AllSizes(sizes=(Size(1, 8), Size(2, 8))).plan(Shape(layers=2, dims=16), random.Random(0))
    >>> [(term.layers, term.dims, term.weight) for term in plan.terms]
    [(2, 16, 1.0), (1, 8, 0.25), (2, 8, 0.25)]
    >>> [(pull.student, pull.teacher, pull.weight) for pull in plan.pulls]
    [((1, 8), (2, 16), 0.5), ((2, 8), (2, 16), 0.5)]
    """

    sizes: tuple[Size, ...] = ()
    inner_weight: float = 1.0
    objective_weight: float = 0.5
    alignment_weight: float = 1.0
    temperature: float = 0.05

    def __post_init__(self) -> None:
        require_not_negative(self, "inner_weight", "objective_weight", "alignment_weight")
        require_positive(self, "temperature")

    def plan(self, shape: Shape, rng: random.Random) -> StepPlan:  # noqa: ARG002
        """Return the objective and the pull of every size; chance plays no part."""
        full = (shape.layers, shape.dims)
        listed = self.sizes or default_sizes(*full)
        sizes = [(size.layers, size.dims) for size in listed if size.check(*full) != Size(*full)]
        share = self.inner_weight / max(1, len(sizes))
        objective, alignment = share * self.objective_weight, share * self.alignment_weight
        terms = [Term(*size, objective) for size in sizes if objective]
        kl = SimilarityKL(self.temperature)
        pulls = [Pull(size, full, kl, alignment) for size in sizes if alignment]
        return StepPlan((Term(*full), *terms), tuple(pulls))
