"""Which sizes a strategy trains in a model, and whether the model can be read there."""

from __future__ import annotations

import random

from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.size import Size
from matryoshka2d.strategies import Shape, Strategy


def check_reads_the_text(
    encoder: ElasticEncoder, name: str, strategy: Strategy, shape: Shape, draws: int = 256
) -> None:
    """Raise a `UserError` if a strategy trains the embedding output of a model that pools its last token.

    Below the first layer the last token has seen no other: its vector says nothing of the text.
    """
    modes = {getattr(module, "pooling_mode", None) for module in encoder}
    plans = (strategy.plan(shape, random.Random(step)) for step in range(draws))
    if "lasttoken" in modes and any(0 in plan.layers() for plan in plans):
        raise UserError(
            f"strategy '{name}' trains the output of the embedding table too, where the last token, which "
            "this model pools, has read nothing: choose all-sizes or 2dmse, or pooling mean"
        )


def trained_sizes(strategy: Strategy, shape: Shape, draws: int = 256) -> list[Size]:
    """Return the sizes that a strategy trains, smallest first; those of many steps where it samples.

    >>> from matryoshka2d.strategies import make_strategy
    >>> [str(size) for size in trained_sizes(make_strategy("mrl", dims=(4, 8)), Shape(2, 16))]
    ['2x4', '2x8', '2x16']
    """
    plans = [strategy.plan(shape, random.Random(step)) for step in range(draws)]
    exits = {(term.layers, term.dims) for plan in plans for term in plan.terms}
    return sorted(Size(*pair) for pair in exits if pair[0] > 0)
