"""What tables and pictures share: the colors of a score, the names of a metric, the marks of a cell."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from matryoshka2d.evaluation.grid import MEAN, Grid
from matryoshka2d.size import Size

Color = tuple[int, int, int]

COLOR_MAP = "viridis"
"""Even in lightness, so it reads the same with any color vision and in print."""

# Viridis at nine even steps, so that a terminal table need not import matplotlib.
_STOPS: tuple[Color, ...] = (
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)
_UNDEFINED: Color = (160, 160, 160)
_METRICS = {"spearman": "Spearman", "pearson": "Pearson", "similarity": "similarity agreement"}


@dataclass(frozen=True)
class Scale:
    """Scores from low to high, as colors from dark to light.

    Parameters
    ----------
    low, high
        The scores at the two ends; anything beyond is shown as the end.

    Examples
    --------
    >>> Scale(0.0, 100.0).color(100.0)
    (253, 231, 37)
    """

    low: float
    high: float

    @classmethod
    def of(cls, grids: Iterable[Grid], set_name: str = MEAN) -> Scale:
        """Return the scale that spans every defined cell of the grids."""
        values = [v for grid in grids for v in grid.values(set_name).values() if not math.isnan(v)]
        return cls(min(values, default=0.0), max(values, default=0.0))

    def color(self, value: float) -> Color:
        """Return red, green and blue, 0 to 255; grey for an undefined score."""
        if math.isnan(value):
            return _UNDEFINED
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 1.0
        place = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
        below = min(int(place), len(_STOPS) - 2)
        mix = place - below
        red, green, blue = (
            round(a + mix * (b - a)) for a, b in zip(_STOPS[below], _STOPS[below + 1], strict=True)
        )
        return red, green, blue

    def ink(self, value: float) -> Color:
        """Return black or white, whichever reads better on the color of a score."""
        # Black and white have the same contrast (WCAG 2.2) on a relative luminance of about 0.18.
        return (0, 0, 0) if _luminance(self.color(value)) > 0.18 else (255, 255, 255)


def _luminance(color: Color) -> float:
    """Return the relative luminance of an sRGB color, 0 to 1, as WCAG 2.2 defines it."""
    shares = (part / 255 for part in color)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def hexadecimal(color: Color) -> str:
    """Return a color as HTML writes it.

    >>> hexadecimal((68, 1, 84))
    '#440154'
    """
    return "#" + "".join(f"{part:02x}" for part in color)


def metric_label(grid: Grid) -> str:
    """Return the metric as an axis shows it.

    >>> metric_label(Grid((Size(1, 8),), {"stsb": (50.0,)}))
    'Spearman × 100'
    """
    return f"{_METRICS.get(grid.metric, grid.metric.replace('ndcg', 'nDCG'))} × 100"


def sets_label(grid: Grid, set_name: str = MEAN) -> str:
    """Return what a table is about: one set, or the mean of how many.

    >>> sets_label(Grid((Size(1, 8),), {"stsb": (50.0,), "sickr": (40.0,)}))
    'mean of 2 sets'
    """
    if set_name != MEAN:
        return set_name
    return grid.sets[0] if len(grid.sets) == 1 else f"mean of {len(grid.sets)} sets"


def documents_label(grid: Grid) -> str:
    """Return which documents the queries of a grid meet, nothing where both are of one size.

    >>> documents_label(Grid((Size(1, 8),), {"toy": (50.0,)}, details={"document_sizes": ["6x8"]}))
    'queries over documents at 6x8'
    """
    sizes = grid.details.get("document_sizes", [])
    return f"queries over documents at {', '.join(sizes)}" if sizes else ""


def shared_title(grid: Grid, set_name: str = MEAN) -> str:
    """Return what grids that stand side by side have in common: metric, sets, the documents' size."""
    labels = metric_label(grid), sets_label(grid, set_name), documents_label(grid)
    return ", ".join(label for label in labels if label)


def full_title(grid: Grid, set_name: str = MEAN) -> str:
    """Return model, metric, sets and the size of the documents in one line."""
    cut = "" if grid.cut == "prefix" else f"{grid.cut} cut"
    parts = grid.name, metric_label(grid), sets_label(grid, set_name), cut, documents_label(grid)
    return ", ".join(part for part in parts if part)


def inverted(grid: Grid, tolerance: float, set_name: str = MEAN) -> frozenset[Size]:
    """Return the sizes that are worse than a smaller neighbor by more than the tolerance."""
    return frozenset(inversion.size for inversion in grid.inversions(tolerance, set_name))


def legend(tolerance: float, mark: str) -> str:
    """Return the sentence that explains the mark of an inversion."""
    return f"{mark} worse than one step shallower or narrower by more than {tolerance:g}"


def two_decimals(value: float) -> str:
    """Return a score as it is shown, a dash if it is not defined."""
    return "–" if math.isnan(value) else f"{value:.2f}"
