"""Which layers and dims a step draws, and how much a depth weighs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Literal

from matryoshka2d.errors import UserError
from matryoshka2d.losses.strategies.base import StepRandom
from matryoshka2d.options import require
from matryoshka2d.size import default_dims

LayerDistribution = Literal["uniform", "shallow", "deep", "cyclic"]
"""How often a layer n is drawn: equally, in proportion to 1/n or to n, or all in turn, step by step."""

DepthWeights = Literal["uniform", "linear", "log"]
"""How much layer n weighs: 1, 1/n, or 1/(1 + ln n)."""

_CHANCES: dict[LayerDistribution, Callable[[int], float]] = {
    "uniform": lambda n: 1.0,  # noqa: ARG005
    "shallow": lambda n: 1.0 / n,
    "deep": float,
    # Where no step is known, in turn means as often.
    "cyclic": lambda n: 1.0,  # noqa: ARG005
}
_DEPTH_WEIGHTS: dict[DepthWeights, Callable[[int], float]] = {
    "uniform": lambda n: 1.0,  # noqa: ARG005
    "linear": lambda n: 1.0 / n,
    "log": lambda n: 1.0 / (1.0 + math.log(n)),
}


def depth_weight(scheme: DepthWeights, layer: int) -> float:
    """Return the weight of a layer, counted from 1.

    >>> [round(depth_weight("log", n), 3) for n in (1, 2, 6)]
    [1.0, 0.591, 0.358]
    """
    return _DEPTH_WEIGHTS[scheme](layer)


def sample_layers(
    layers: Sequence[int], count: int, distribution: LayerDistribution, rng: random.Random
) -> tuple[int, ...]:
    """Draw `count` different layers, shallowest first; all of them if `count` is -1 or more than there are.

    >>> sample_layers(range(1, 6), 2, "uniform", random.Random(1))
    (1, 5)
    >>> sample_layers(range(1, 4), -1, "deep", random.Random(0))
    (1, 2, 3)
    >>> [sample_layers(range(1, 4), 1, "cyclic", StepRandom(0, step)) for step in range(4)]
    [(1,), (2,), (3,), (1,)]
    """
    left = list(layers)
    if not 0 <= count < len(left):
        return tuple(left)
    if distribution == "cyclic" and isinstance(rng, StepRandom):
        return tuple(sorted(left[(rng.step * count + place) % len(left)] for place in range(count)))
    drawn = []
    for _ in range(count):
        chances = [_CHANCES[distribution](layer) for layer in left]
        drawn.append(left.pop(rng.choices(range(len(left)), chances)[0]))
    return tuple(sorted(drawn))


def sample_dims(dims: Sequence[int], count: int, rng: random.Random) -> tuple[int, ...]:
    """Draw `count` different dims, narrowest first; all of them if `count` is -1 or more than there are.

    >>> sample_dims([8, 16, 32], 1, random.Random(3))
    (8,)
    """
    if not 0 <= count < len(dims):
        return tuple(dims)
    return tuple(sorted(rng.sample(list(dims), count)))


def chosen_dims(dims: Sequence[int], width: int) -> tuple[int, ...]:
    """Return the dims that the user listed, sorted, or the default ones of a model of that width.

    Raises
    ------
    UserError
        If one of the dims is below 1 or above the width.

    Examples
    --------
    >>> chosen_dims((), 32), chosen_dims((16, 4, 16), 32)
    ((8, 16, 32), (4, 16))
    """
    for one in dims:
        if not 1 <= one <= width:
            raise UserError(f"{one} dims are not possible: the model has {width} dims, use 1 to {width}")
    return tuple(sorted(set(dims))) or default_dims(width)


def narrower_dims(dims: Sequence[int], width: int) -> tuple[int, ...]:
    """Return `chosen_dims` without the full width, which every step trains anyway.

    >>> narrower_dims((), 64)
    (8, 16, 32)
    """
    return tuple(one for one in chosen_dims(dims, width) if one < width)


def check_count(owner: object, *names: str) -> None:
    """Raise `UserError` unless each of the named fields is -1, for all, or at least 1."""
    for name in names:
        value = getattr(owner, name)
        label = f"{type(owner).__name__}.{name}"
        require(value == -1 or value >= 1, f"{label} is {value}: expected 1 or more, or -1 for all")
