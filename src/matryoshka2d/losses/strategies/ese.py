"""Espresso sentence embeddings: every layer at one width, which learns from a PCA of the full one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from matryoshka2d.losses.strategies.alignment import PcaTarget
from matryoshka2d.losses.strategies.base import Pull, Shape, StepPlan, Term
from matryoshka2d.losses.strategies.sampling import DepthWeights, chosen_dims, depth_weight
from matryoshka2d.options import require_choices, require_not_negative

_PUBLISHED_DIMS = 128


@dataclass(frozen=True)
class ESE:
    """ESE: every layer at one width k, weighted less the deeper it is, and compressed towards a PCA.

    Every step trains (N, D), (N, k) and, weighted by depth and averaged, (n, k) for every inner layer n
    from 1 to N - 1. Each (·, k) is pulled towards the PCA of its own layer's full vectors, with its weight.

    Parameters
    ----------
    dims
        The width k, default 128, or half the width of a model that is no wider. Set it to the
        width you will ship.
    depth_weights
        ``log`` (the default), ``linear`` or ``uniform``: inner layers weigh 1/(1 + ln n), 1/n or 1. Choose
        ``uniform`` when deep inner layers fall behind.
    alignment_weight
        Weight of the pull towards the PCA, default 1. Set 0 to train on labels only.
    temperature
        Temperature of its KL, default 1; 0 leaves the mean squared error alone.

    Raises
    ------
    UserError
        If a weight or the temperature is negative, or, when planning, `dims` is not possible.

    References
    ----------
    Li et al. 2025, ESE: Espresso Sentence Embeddings, ICLR 2025, arXiv 2402.14776v2.

    Examples
    --------
    >>> plan = ESE().plan(Shape(layers=3, dims=384), random.Random(0))
    >>> [(term.layers, term.dims, round(term.weight, 3)) for term in plan.terms]
    [(3, 384, 1.0), (3, 128, 1.0), (1, 128, 0.5), (2, 128, 0.295)]
    """

    dims: int | None = None
    depth_weights: DepthWeights = "log"
    alignment_weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_choices(self)
        require_not_negative(self, "alignment_weight", "temperature")

    def plan(self, shape: Shape, rng: random.Random) -> StepPlan:  # noqa: ARG002
        """Return the objective at full size and at width k of every layer, and the pulls to the PCA."""
        k = self._width(shape.dims)
        narrow = tuple(self._narrow(shape, k))
        return StepPlan((Term(shape.layers, shape.dims), *narrow), tuple(self._pulls(shape, narrow)))

    def _width(self, width: int) -> int:
        if self.dims is not None:
            return chosen_dims((self.dims,), width)[0]
        return _PUBLISHED_DIMS if width > _PUBLISHED_DIMS else max(1, width // 2)

    def _narrow(self, shape: Shape, k: int) -> Iterator[Term]:
        if k < shape.dims:
            yield Term(shape.layers, k)
        for n in range(1, shape.layers):
            yield Term(n, k, depth_weight(self.depth_weights, n) / (shape.layers - 1))

    def _pulls(self, shape: Shape, narrow: tuple[Term, ...]) -> Iterator[Pull]:
        if self.alignment_weight:
            target = PcaTarget(self.temperature)
            for term in narrow:
                weight = self.alignment_weight * term.weight
                yield Pull((term.layers, term.dims), (term.layers, shape.dims), target, weight)
