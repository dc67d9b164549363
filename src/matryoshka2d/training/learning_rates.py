"""One learning rate a depth: high at the bottom, which has far to go, low at the top, which has not.

A single rate trades full-size quality against the quality of shallow exits; rates that fall with depth
buy both. They are handed to the trainer as sentence-transformers' own `learning_rate_mapping`.
"""

from __future__ import annotations

import re

from matryoshka2d import architectures
from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.training.options import TrainingOptions
from matryoshka2d.training.presets import preset_of


def rates(options: TrainingOptions) -> tuple[float, float]:
    """Return the rates of the lowest and of the highest layer.

    Raises
    ------
    UserError
        If one of them is 0 and the other is not.

    >>> rates(TrainingOptions(strategy="all-sizes"))
    (0.0003, 3e-05)
    >>> rates(TrainingOptions(strategy="full", learning_rate=1e-5))
    (1e-05, 1e-05)
    """
    preset = preset_of(options)
    lowest, highest = options.learning_rate, options.top_learning_rate
    if lowest is None:
        lowest = preset.learning_rate
    if highest is None:
        highest = lowest * preset.top_share
    if (lowest == 0) != (highest == 0):
        raise UserError(
            f"learning_rate {lowest} and top_learning_rate {highest}: the rate cannot fall geometrically "
            f"from or to 0; set both to 0 to train the heads alone, or neither"
        )
    return lowest, float(f"{highest:.12g}")


def by_depth(lowest: float, highest: float, depth: int) -> list[float]:
    """Return the rate of every layer, from layer 1 to the last, falling geometrically.

    >>> [round(rate, 6) for rate in by_depth(1e-3, 1e-5, 3)]
    [0.001, 0.0001, 1e-05]
    """
    steps = max(depth - 1, 1)
    return [lowest * (highest / lowest) ** (n / steps) for n in range(depth)]


def mapping(encoder: ElasticEncoder, options: TrainingOptions) -> dict[str, float]:
    """Return the trainer's `learning_rate_mapping`: a pattern of parameter names → a rate.

    Parameters of no layer (the embedding table) keep the rate of the lowest layer.
    """
    lowest, highest = rates(options)
    path = re.escape(architectures.architecture_of(encoder.base.config).layers)
    by_name: dict[str, float] = {}
    if highest != lowest:
        layers = by_depth(lowest, highest, encoder.depth)
        by_name = {rf"\.{path}\.{n}\.": rate for n, rate in enumerate(layers)}
        norm = architectures.architecture_of(encoder.base.config).final_norm
        if norm:
            by_name[rf"model\.{re.escape(norm)}\."] = highest
    if encoder.heads is not None:
        by_name[r"exit_heads\."] = options.head_learning_rate
    return by_name
