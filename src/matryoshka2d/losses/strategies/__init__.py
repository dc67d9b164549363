"""Strategies: which sizes a training step trains, with which weights, aligned to what.

>>> make_strategy("starbucks", sizes="1x8 2x16").sizes
(Size(layers=1, dims=8), Size(layers=2, dims=16))
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from matryoshka2d.losses.strategies.alignment import CoordinateKL, PcaTarget, SimilarityKL
from matryoshka2d.losses.strategies.all_sizes import AllSizes
from matryoshka2d.losses.strategies.base import Alignment, Pull, Shape, StepPlan, StepRandom, Strategy, Term
from matryoshka2d.losses.strategies.ese import ESE
from matryoshka2d.losses.strategies.full import Full
from matryoshka2d.losses.strategies.matryoshka2d import Matryoshka2d
from matryoshka2d.losses.strategies.mrl import MRL
from matryoshka2d.losses.strategies.starbucks import Starbucks, default_pairs
from matryoshka2d.losses.strategies.two_dmse import TwoDMSE
from matryoshka2d.options import Description, Option, describe_registry, make

__all__ = [
    "DEFAULT_STRATEGY",
    "ESE",
    "MRL",
    "STRATEGIES",
    "Alignment",
    "AllSizes",
    "CoordinateKL",
    "Description",
    "Full",
    "Matryoshka2d",
    "Option",
    "PcaTarget",
    "Pull",
    "Shape",
    "SimilarityKL",
    "Starbucks",
    "StepPlan",
    "StepRandom",
    "Strategy",
    "Term",
    "TwoDMSE",
    "default_pairs",
    "describe",
    "make_strategy",
]

STRATEGIES: MappingProxyType[str, type[Strategy]] = MappingProxyType(
    {
        "all-sizes": AllSizes,
        "full": Full,
        "mrl": MRL,
        "2dmse": TwoDMSE,
        "ese": ESE,
        "starbucks": Starbucks,
        "matryoshka2d": Matryoshka2d,
    }
)
"""Name → class of every strategy."""

DEFAULT_STRATEGY = "all-sizes"
"""The strategy that trains unless the user names another."""


def make_strategy(name: str = DEFAULT_STRATEGY, /, **options: Any) -> Strategy:
    """Make a strategy by name.

    Parameters
    ----------
    name
        A key of `STRATEGIES`, default ``"all-sizes"``. Choose another to repeat a published method.
    **options
        Fields of its class; texts are parsed to the type of the field, as in ``dims="8,16,32"``.

    Raises
    ------
    UserError
        If the name, an option or the value of an option is not known.

    Examples
    --------
    >>> make_strategy("mrl", dims="64,128")
    MRL(dims=(64, 128))
    """
    return make("strategy", STRATEGIES, name, options)


def describe() -> tuple[Description, ...]:
    """Return the one-line summary and the options of every strategy, for docs and command lines.

    >>> all_sizes = describe()[0]
    >>> all_sizes.name, [option.name for option in all_sizes.options][:2]
    ('all-sizes', ['sizes', 'inner_weight'])
    """
    return describe_registry(STRATEGIES)
