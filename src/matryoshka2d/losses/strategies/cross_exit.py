"""Cross-exit training: a shallow query meets a document that was indexed at full depth.

A strategy trains each size by itself: queries and documents of a term come from one exit. An index is
built once, at one depth, and queries of every other depth must find their way in it. This adds that case
to the plan of any strategy.
"""

from __future__ import annotations

from dataclasses import replace

from matryoshka2d.errors import UserError
from matryoshka2d.losses.strategies.alignment import SimilarityKL
from matryoshka2d.losses.strategies.base import Shape, StepPlan


def with_cross_exit(plan: StepPlan, shape: Shape, weight: float) -> StepPlan:
    """Return a plan in which every inner exit also meets documents at full depth.

    Each term and each similarity pull of an inner exit is there once more, `weight` times as heavy, with
    its queries at that exit and its documents at the last one, cut to the same dims. Queries are the first
    column of a batch; where there is only one, every other text. The documents get no gradient from it:
    the index does not move towards its queries. Pulls over coordinates compare no texts and stay alone.

    Parameters
    ----------
    plan
        What a strategy gives for one step.
    shape
        Depth and width of the model.
    weight
        Of the added terms, relative to those they are made from; 0 adds nothing. Raise it where shallow
        queries over a full-depth index matter more than shallow queries over a shallow one.

    Examples
    --------
    >>> from matryoshka2d.losses.strategies.base import Term
    >>> plan = StepPlan((Term(2, 8), Term(1, 8, 0.5)))
    >>> with_cross_exit(plan, Shape(2, 8), 2.0).terms[-1]
    Term(layers=1, dims=8, weight=1.0, documents=2)
    """
    if weight == 0:
        return plan
    full = shape.layers
    terms = [
        replace(term, weight=weight * term.weight, documents=full)
        for term in plan.terms
        if 0 < term.layers < full
    ]
    pulls = [
        replace(pull, weight=weight * pull.weight, documents=full)
        for pull in plan.pulls
        if 0 < pull.student[0] < full and isinstance(pull.alignment, SimilarityKL)
    ]
    return StepPlan((*plan.terms, *terms), (*plan.pulls, *pulls))


def check_cross_exit(weight: float, strategy: str, trains_inner: bool) -> None:
    """Raise a `UserError` if there is a weight, and the strategy has no inner exit to put it on."""
    if weight and not trains_inner:
        raise UserError(
            f"cross_exit is {weight}, but strategy '{strategy}' trains no inner exit whose queries could "
            "meet the documents: choose all-sizes or 2dmse, or leave cross_exit out"
        )
