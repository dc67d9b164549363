"""2D Matryoshka sentence embeddings, as the paper has them and as their authors first coded them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from matryoshka2d.losses.strategies.alignment import CoordinateKL, SimilarityKL
from matryoshka2d.losses.strategies.base import Alignment, Pull, Shape, StepPlan, Term
from matryoshka2d.losses.strategies.sampling import (
    DepthWeights,
    LayerDistribution,
    check_count,
    depth_weight,
    narrower_dims,
    sample_dims,
    sample_layers,
)
from matryoshka2d.options import require_choices, require_not_negative, require_positive


@dataclass(frozen=True)
class TwoDMSE:
    """2DMSE: the full size, one drawn layer, and both cut to one drawn width; the layer aligned to the last.

    A step draws an inner layer n and a width d and trains (N, D), (n, D), (N, d) and (n, d), and pulls
    (n, D) towards (N, D). If it draws several layers or widths, their weights are divided by how many.

    Parameters
    ----------
    variant
        ``paper`` (the default): all weights 1, KL over coordinates. ``first-code``: the code that the
        authors published in March 2024, inner terms over n, the same KL times T and ln(2 + n), gradient
        through the teacher. Choose it only to repeat a run of that code.
    layers_per_step, dims_per_step
        How many inner layers and widths a step draws, default 1; -1 for all. Raise them for a smoother
        loss; each layer or width costs one more objective, not one more pass of the encoder.
    dims
        Widths to draw from, default the powers of two from 8 and half the width. List those that you
        will ship.
    layer_distribution
        ``uniform`` (the default), ``shallow``, ``deep`` or ``cyclic``: draw layer n equally, by 1/n, by n,
        or all in turn. Choose ``shallow`` when only shallow sizes will be used, ``cyclic`` for short runs.
    depth_weights
        ``uniform``, ``linear`` or ``log``: inner terms weigh 1, 1/n or 1/(1 + ln n); default what the variant
        has (uniform, linear). Choose ``log`` or ``linear`` to leave more of the deep layers to the full size.
    alignment
        ``coordinates`` (the default), ``similarities`` or ``none``. Choose ``similarities`` for a model
        that ends in a Normalize module, or whenever you are free to.
    alignment_weight
        Weight of the alignment, default 1. Raise it when shallow sizes rank differently from the full one.
    temperature
        Temperature of the alignment, default 1 for coordinates and 0.05 for similarities.
    detach
        Stop the gradient at the full size, default what the variant has (true, false). The paper does not
        say; letting it through moves the full size towards the shallow ones, which it is there to lead.

    Raises
    ------
    UserError
        If a count, a weight or the temperature is not possible, or, when planning, a width.

    References
    ----------
    Li et al. 2024, 2D Matryoshka Sentence Embeddings, arXiv 2402.14776v1.

    Examples
    --------
    >>> plan = TwoDMSE().plan(Shape(layers=6, dims=384), random.Random(0))
    >>> [(term.layers, term.dims) for term in plan.terms]
    [(6, 384), (6, 256), (5, 384), (5, 256)]
    >>> plan.pulls[0].student, plan.pulls[0].teacher
    ((5, 384), (6, 384))
    """

    variant: Literal["paper", "first-code"] = "paper"
    layers_per_step: int = 1
    dims_per_step: int = 1
    dims: tuple[int, ...] = ()
    layer_distribution: LayerDistribution = "uniform"
    depth_weights: DepthWeights | None = None
    alignment: Literal["coordinates", "similarities", "none"] = "coordinates"
    alignment_weight: float = 1.0
    temperature: float | None = None
    detach: bool | None = None

    def __post_init__(self) -> None:
        require_choices(self)
        check_count(self, "layers_per_step", "dims_per_step")
        require_not_negative(self, "alignment_weight")
        if self.temperature is not None:
            require_positive(self, "temperature")

    def plan(self, shape: Shape, rng: random.Random) -> StepPlan:
        """Draw layers and widths, and return the objective at their four corners and the alignment."""
        inner = range(1, shape.layers)
        layers = sample_layers(inner, self.layers_per_step, self.layer_distribution, rng)
        dims = sample_dims(narrower_dims(self.dims, shape.dims), self.dims_per_step, rng)
        return StepPlan(tuple(self._terms(shape, layers, dims)), tuple(self._pulls(shape, layers)))

    def _terms(self, shape: Shape, layers: tuple[int, ...], dims: tuple[int, ...]) -> Iterator[Term]:
        scheme = self.depth_weights or ("linear" if self.variant == "first-code" else "uniform")
        weights = {n: depth_weight(scheme, n) / len(layers) for n in layers}
        for n, weight in {shape.layers: 1.0, **weights}.items():
            yield Term(n, shape.dims, weight)
            yield from (Term(n, d, weight / len(dims)) for d in dims)

    def _pulls(self, shape: Shape, layers: tuple[int, ...]) -> Iterator[Pull]:
        alignment = self._alignment()
        if alignment is None or not self.alignment_weight:
            return
        first_code = self.variant == "first-code"
        detach = not first_code if self.detach is None else self.detach
        for n in layers:
            weight = (math.log(2 + n) if first_code else 1.0) * self.alignment_weight / len(layers)
            yield Pull((n, shape.dims), (shape.layers, shape.dims), alignment, weight, detach)

    def _alignment(self) -> Alignment | None:
        if self.alignment == "none":
            return None
        if self.alignment == "similarities":
            return SimilarityKL(self.temperature or 0.05)
        return CoordinateKL(self.temperature or 1.0, times_temperature=self.variant == "first-code")
