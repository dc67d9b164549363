"""All sizes every step, taught by a frozen fine-tune or by the full size: the default."""

from __future__ import annotations

import random
from typing import Literal

from matryoshka2d.losses.strategies.alignment import SimilarityKL
from matryoshka2d.losses.strategies.base import Pull, Shape, StepPlan, Term
from matryoshka2d.options import NotNegative, Positive, Sizes, options
from matryoshka2d.size import Size, default_sizes


@options
class AllSizes:
    """Every size every step: the full one learns from the data, the others also from a teacher.

    The teacher is the frozen teacher of the run if there is one, else the full size itself, which gets no
    gradient from it. The full size has weight 1, and learns from a frozen teacher too. Over the other
    sizes, averaged and times `inner_weight`: ``objective_weight * objective + alignment_weight * KL`` of
    in-batch similarities, from the teacher. One pass of the encoder serves all of them.

    Parameters
    ----------
    sizes
        Sizes to train beside the full one, default every layer at the powers of two from 8, half the
        width and the full width. List those that you may ship: fewer sizes leave more of the loss to each.
    inner_weight
        Weight of all other sizes together, default 1. Lower it when the full size loses quality,
        raise it when the small ones matter most.
    objective_weight
        Weight of the objective at the other sizes, default 0.1. Raise it when there are many
        good labels, lower it, even to 0, when labels are noisy or few.
    alignment_weight
        Weight of the teacher's similarities at the other sizes, default 3. Lower it when the full size is
        the teacher, starts untrained and has little to teach.
    full_alignment_weight
        Weight of a frozen teacher's similarities at the full size, default 3. Set 0 to let the full size
        learn from the data alone.
    temperature
        Temperature of the similarities, default 0.05. Raise it to match the whole ranking, lower it to match
        the nearest neighbors only.
    similarities
        ``all`` (the default): of each text of a batch to all others. ``anchors``: of anchors to the other
        columns, cheaper for very large batches.

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
    [(2, 16, 1.0), (1, 8, 0.05), (2, 8, 0.05)]
    >>> [(pull.student, pull.teacher, pull.weight) for pull in plan.pulls]
    [((1, 8), (2, 16), 1.5), ((2, 8), (2, 16), 1.5)]
    """

    sizes: Sizes = ()
    inner_weight: NotNegative = 1.0
    objective_weight: NotNegative = 0.1
    alignment_weight: NotNegative = 3.0
    full_alignment_weight: NotNegative = 3.0
    temperature: Positive = 0.05
    similarities: Literal["all", "anchors"] = "all"

    def plan(self, shape: Shape, rng: random.Random) -> StepPlan:  # noqa: ARG002
        """Return the objective and the pull of every size; chance plays no part."""
        full = (shape.layers, shape.dims)
        listed = self.sizes or default_sizes(*full)
        sizes = [(size.layers, size.dims) for size in listed if size.check(*full) != Size(*full)]
        share = self.inner_weight / max(1, len(sizes))
        objective, alignment = share * self.objective_weight, share * self.alignment_weight
        terms = [Term(*size, objective) for size in sizes if objective]
        kl = SimilarityKL(self.temperature, all_pairs=self.similarities == "all")
        teacher = None if shape.has_teacher else full
        pulls = [Pull(size, teacher, kl, alignment) for size in sizes if alignment]
        if shape.has_teacher and self.full_alignment_weight:
            pulls.insert(0, Pull(full, None, kl, self.full_alignment_weight))
        return StepPlan((Term(*full), *terms), tuple(pulls))
