"""Grids that the tests of the report show."""

from __future__ import annotations

import math

from matryoshka2d.evaluation import Grid
from matryoshka2d.size import default_sizes


def small_grid(name: str = "toy", shift: float = 0.0, layers: int = 3, width: int = 32) -> Grid:
    """Return a grid that rises with depth and width, except for one dip at 2 layers of the first width."""
    sizes = default_sizes(layers, width)
    scores = tuple(
        40.0 + shift + 5 * size.layers + 2 * math.log2(size.dims) - 10 * (str(size) == "2x8")
        for size in sizes
    )
    lower = tuple(score - 4 for score in scores)
    return Grid(sizes, {"stsb": scores, "sickr": lower}, name=name, details={"split": "test"})
