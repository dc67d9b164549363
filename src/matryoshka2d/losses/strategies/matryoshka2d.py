"""The 2D Matryoshka loss of sentence-transformers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from matryoshka2d.losses.strategies.alignment import CoordinateKL
from matryoshka2d.losses.strategies.base import Pull, Shape, StepPlan, Term
from matryoshka2d.losses.strategies.sampling import DepthWeights, check_count, chosen_dims, depth_weight
from matryoshka2d.options import require, require_choices, require_not_negative


@dataclass(frozen=True)
class Matryoshka2d:
    """What Matryoshka2dLoss of sentence-transformers 6.2 trains, for runs that are to be compared with it.

    A step trains the last layer and `layers_per_step` others, among them layer 0, the output of the
    embedding table, each at widths drawn for itself, and pulls the drawn layers towards the last one at
    full width. The full size is trained only when its width happens to be drawn. Draws come in the order of
    that library, so the same seed gives the same layers and widths.

    Parameters
    ----------
    dims
        Widths to draw from, default the powers of two from 8, half the width and the full width.
    dim_weights
        Weight of each of the listed `dims`, in their order; default 1 each.
    layers_per_step, dims_per_step
        How many layers below the last, and widths for each layer, a step draws, default 1; -1 for all.
        Raise them for a smoother loss.
    last_layer_weight
        Weight of the last layer, default 1. Raise it when full depth loses quality.
    prior_layers_weight
        Weight of the drawn layers, divided by how many they are, default 1. Raise it when shallow
        sizes are weak.
    alignment_weight
        Weight of the KL over coordinates, default 1; it is not divided by how many layers are drawn.
    temperature
        Temperature of that KL, inside and outside the softmax, default 0.3; 0 turns it off. For a
        model that ends in a Normalize module the KL is nearly zero: lower the temperature, to 0.01.
    depth_weights
        ``uniform`` (the default), ``log`` or ``linear``: layer i, counted from 0, weighs 1,
        1/(1 + ln(1 + i)) or 1/(1 + i).

    Raises
    ------
    UserError
        If a count, a weight or the temperature is not possible, or, when planning, a width.

    References
    ----------
    sentence-transformers 6.2, Matryoshka2dLoss; after arXiv 2402.14776.

    Examples
    --------
    >>> plan = Matryoshka2d(dims=(8, 16)).plan(Shape(layers=6, dims=16), random.Random(4))
    >>> [(term.layers, term.dims) for term in plan.terms]
    [(6, 16), (2, 16)]
    """

    dims: tuple[int, ...] = ()
    dim_weights: tuple[float, ...] = ()
    layers_per_step: int = 1
    dims_per_step: int = 1
    last_layer_weight: float = 1.0
    prior_layers_weight: float = 1.0
    alignment_weight: float = 1.0
    temperature: float = 0.3
    depth_weights: DepthWeights = "uniform"

    def __post_init__(self) -> None:
        require_choices(self)
        check_count(self, "layers_per_step", "dims_per_step")
        require_not_negative(
            self, "last_layer_weight", "prior_layers_weight", "alignment_weight", "temperature"
        )
        require(
            len(self.dim_weights) in (0, len(self.dims)),
            f"{len(self.dim_weights)} dim_weights for {len(self.dims)} dims: expected one for each, or none",
        )

    def plan(self, shape: Shape, rng: random.Random) -> StepPlan:
        """Draw widths for the last layer, then the other layers, then widths for each of them."""
        widths = self._weighted_dims(shape.dims)
        terms = list(self._layer(shape.layers, self.last_layer_weight, widths, rng))
        layers = _draw(range(shape.layers), self.layers_per_step, rng)
        for layer in layers:
            weight = depth_weight(self.depth_weights, layer + 1) * self.prior_layers_weight / len(layers)
            terms.extend(self._layer(layer, weight, widths, rng))
        return StepPlan(tuple(terms), tuple(self._pulls(shape, layers)))

    def _weighted_dims(self, width: int) -> list[tuple[int, float]]:
        """Return dims with weights, widest first, as sentence-transformers sorts them before it draws."""
        chosen = chosen_dims(self.dims, width)
        weights = dict(zip(self.dims, self.dim_weights, strict=True)) if self.dim_weights else {}
        return [(d, weights.get(d, 1.0)) for d in reversed(chosen)]

    def _layer(
        self, layer: int, weight: float, widths: list[tuple[int, float]], rng: random.Random
    ) -> Iterator[Term]:
        for index in sorted(_draw(range(len(widths)), self.dims_per_step, rng)):
            d, dim_weight = widths[index]
            yield Term(layer, d, weight * dim_weight)

    def _pulls(self, shape: Shape, layers: list[int]) -> Iterator[Pull]:
        if self.temperature and self.alignment_weight:
            alignment = CoordinateKL(self.temperature, times_temperature=True)
            teacher = (shape.layers, shape.dims)
            for layer in layers:
                yield Pull((layer, shape.dims), teacher, alignment, self.alignment_weight, as_output=True)


def _draw(values: range, count: int, rng: random.Random) -> list[int]:
    return rng.sample(values, count) if 0 < count < len(values) else list(values)
