"""The grid as a heatmap: one cell a size, its score written in it."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from matryoshka2d.evaluation.grid import MEAN, Grid
from matryoshka2d.report.figures import Grids, named_grids, panels
from matryoshka2d.report.scale import (
    COLOUR_MAP,
    Scale,
    full_title,
    hexadecimal,
    inverted,
    legend,
    metric_label,
    sets_label,
    shared_title,
)
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARK = "▾"
_CELL_INCHES = (0.66, 0.40)
_MARGIN_INCHES = (1.1, 1.15)
_LETTERS_AN_INCH = 10  # of a title


def heatmap(
    grids: Grids,
    *,
    set_name: str = MEAN,
    tolerance: float = 0.1,
    scale: Scale | None = None,
    title: str | None = None,
) -> Figure:
    """Draw one grid, or several side by side on one colour scale.

    Parameters
    ----------
    grids
        One grid, or title → grid, such as ``{"before": ..., "after": ...}``; of the same metric and sets.
    set_name
        One set, or the mean over sets.
    tolerance
        Steps down larger than this many points carry a mark: see `Grid.inversions`.
    scale
        The ends of the colours; those of all cells shown by default. Name them to compare figures.
    title
        Above the whole figure; model, metric and sets by default.

    Returns
    -------
    matplotlib.figure.Figure
        Independent of pyplot; write it with `save_figure`.

    Raises
    ------
    UserError
        If the grids cannot be compared, or lack the set.
    """
    table = named_grids(grids)
    colours = scale or Scale.of(table.values(), set_name)
    layers = sorted({n for grid in table.values() for n in grid.layers})
    dims = sorted({d for grid in table.values() for d in grid.dims})
    width = max(4.4, len(dims) * _CELL_INCHES[0] + _MARGIN_INCHES[0])
    figure, axes = panels(
        len(table),
        width,
        max(2.4, len(layers) * _CELL_INCHES[1] + _MARGIN_INCHES[1]),
    )
    for axis, (name, grid) in zip(axes, table.items(), strict=True):
        _draw(
            axis,
            grid.values(set_name),
            inverted(grid, tolerance, set_name),
            layers=layers,
            dims=dims,
            scale=colours,
        )
        if len(table) > 1:
            mean = f"(mean of cells {grid.mean_over_sizes(set_name):.2f})"
            axis.set_title(_title(name, mean, int(width * _LETTERS_AN_INCH)), fontsize=11)
    _finish(figure, axes, next(iter(table.values())), set_name, colours)
    any_marked = any(inverted(grid, tolerance, set_name) for grid in table.values())
    first = next(iter(table.values()))
    own = full_title if len(table) == 1 else shared_title
    figure.suptitle(title or own(first, set_name), fontsize=12)
    if any_marked:
        figure.supxlabel(legend(tolerance, _MARK), fontsize=9, color="#444444")
    return figure


def _title(name: str, mean: str, letters: int) -> str:
    """Return a title on one line, or on more where its neighbour would be in its way."""
    whole = f"{name} {mean}"
    return whole if len(whole) <= letters else f"{textwrap.fill(name, letters)}\n{mean}"


def _draw(
    axis: Axes,
    values: dict[Size, float],
    marked: frozenset[Size],
    *,
    layers: list[int],
    dims: list[int],
    scale: Scale,
) -> None:
    table = [[values.get(Size(n, d), math.nan) for d in dims] for n in layers]
    axis.pcolormesh(
        table, cmap=COLOUR_MAP, vmin=scale.low, vmax=_high(scale), edgecolors="white", linewidth=0.6
    )
    axis.set_facecolor("#eeeeee")
    for row, n in enumerate(layers):
        for column, d in enumerate(dims):
            value = table[row][column]
            if math.isnan(value):
                continue
            mark = _MARK if Size(n, d) in marked else ""
            ink = hexadecimal(scale.ink(value))
            axis.text(
                column + 0.5, row + 0.5, f"{value:.1f}{mark}", ha="center", va="center", color=ink, fontsize=9
            )
    axis.set_xticks([i + 0.5 for i in range(len(dims))], [str(d) for d in dims])
    axis.set_yticks([i + 0.5 for i in range(len(layers))], [str(n) for n in layers])
    axis.invert_yaxis()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("dims kept")
    axis.set_ylabel("layers run")


def _high(scale: Scale) -> float:
    """Return the upper end, a little above the lower where both are the same."""
    return scale.high if scale.high > scale.low else scale.low + 1.0


def _finish(figure: Figure, axes: list[Axes], grid: Grid, set_name: str, scale: Scale) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    mappable = ScalarMappable(Normalize(scale.low, _high(scale)), COLOUR_MAP)
    bar = figure.colorbar(mappable, ax=axes, pad=0.02, aspect=25)
    bar.set_label(f"{metric_label(grid)}, {sets_label(grid, set_name)}", fontsize=9)
    bar.outline.set_visible(False)
