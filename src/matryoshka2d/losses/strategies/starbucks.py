"""Starbucks: a fixed list of sizes, all of them every step."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from matryoshka2d.losses.strategies.alignment import CoordinateKL, SimilarityKL
from matryoshka2d.losses.strategies.base import Pull, Shape, StepPlan, Term
from matryoshka2d.options import require_choices, require_not_negative, require_positive
from matryoshka2d.size import Size

_PAIRS = 6
_SMALLEST_DIMS = 8


@dataclass(frozen=True)
class Starbucks:
    """Starbucks: a short fixed list of sizes, each trained every step and aligned to the full one.

    Every size has weight 1; the full size is always among them.

    Parameters
    ----------
    sizes
        The sizes, default the published pattern: up to six evenly spaced depths, the deepest at full
        width and each shallower one at the next smaller power of two, 2x32 4x64 6x128 8x256 10x512 12x768 for
        BERT-base. List exactly the sizes that you will ship; sizes in between are not trained.
    alignment
        ``sts`` (the default): KL over the first d coordinates against the same of the full depth,
        multiplied by the temperature, which their STS code leaves out of the softmax. ``retrieval``: KL
        over in-batch similarities against the full size, as their retrieval code has it. ``none``: labels
        only. Choose ``retrieval`` for retrieval data or a model that ends in a Normalize module.
    alignment_weight
        Weight of the alignment, default 1. Raise it when small sizes rank differently from the full one.
    temperature
        Temperature of the alignment, default 0.3 for ``sts`` and 0.05 for ``retrieval``.
    temperature_in_softmax
        Divide by the temperature inside the softmax of ``sts`` too, default false, as published. Set it
        for an alignment that follows the temperature rather than only its own weight.
    detach
        Stop the gradient at the full size, default what their code does: false for ``sts``, true for
        ``retrieval``. Set it true when the full size loses quality.

    Raises
    ------
    UserError
        If the weight or the temperature is not possible, or, when planning, a size.

    References
    ----------
    Zhuang et al. 2024, Starbucks: Improved Training for 2D Matryoshka Embeddings, arXiv 2410.13230.

    Examples
    --------
    >>> plan = Starbucks().plan(Shape(layers=12, dims=768), random.Random(0))
    >>> [f"{term.layers}x{term.dims}" for term in plan.terms]
    ['12x768', '2x32', '4x64', '6x128', '8x256', '10x512']
    """

    sizes: tuple[Size, ...] = ()
    alignment: Literal["sts", "retrieval", "none"] = "sts"
    alignment_weight: float = 1.0
    temperature: float | None = None
    temperature_in_softmax: bool = False
    detach: bool | None = None

    def __post_init__(self) -> None:
        require_choices(self)
        require_not_negative(self, "alignment_weight")
        if self.temperature is not None:
            require_positive(self, "temperature")

    def plan(self, shape: Shape, rng: random.Random) -> StepPlan:  # noqa: ARG002
        """Return the objective at every listed size, and the pulls of the smaller ones."""
        full = Size(shape.layers, shape.dims)
        listed = self.sizes or default_pairs(shape.layers, shape.dims)
        inner = [size for size in listed if size.check(shape.layers, shape.dims) != full]
        terms = tuple(Term(size.layers, size.dims) for size in (full, *inner))
        pulled = self.alignment != "none" and self.alignment_weight > 0
        return StepPlan(terms, tuple(self._pulls(full, inner)) if pulled else ())

    def _pulls(self, full: Size, inner: list[Size]) -> Iterator[Pull]:
        sts = self.alignment == "sts"
        alignment = self._coordinates() if sts else SimilarityKL(self.temperature or 0.05)
        detach = not sts if self.detach is None else self.detach
        for size in inner:
            teacher = (full.layers, size.dims if sts else full.dims)
            if teacher != (size.layers, size.dims):  # a cut of the last layer is its own teacher
                student = (size.layers, size.dims)
                yield Pull(student, teacher, alignment, self.alignment_weight, detach)

    def _coordinates(self) -> CoordinateKL:
        return CoordinateKL(self.temperature or 0.3, self.temperature_in_softmax, times_temperature=True)


def default_pairs(layers: int, width: int) -> tuple[Size, ...]:
    """Return the published pattern of sizes for a model of that depth and width.

    >>> [str(size) for size in default_pairs(6, 384)]
    ['1x16', '2x32', '3x64', '4x128', '5x256', '6x384']
    >>> [str(size) for size in default_pairs(12, 32)]
    ['4x8', '8x16', '12x32']
    """
    halvings = [2**k for k in range(width.bit_length()) if _SMALLEST_DIMS <= 2**k < width]
    dims = [*halvings, width][-min(_PAIRS, layers) :]
    depths = [round(layers * step / len(dims)) for step in range(1, len(dims) + 1)]
    return tuple(Size(n, d) for n, d in zip(depths, dims, strict=True))
