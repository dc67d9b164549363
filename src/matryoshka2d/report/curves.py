"""Two cuts through the grid: quality against depth, and quality against width."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from matryoshka2d.evaluation.grid import MEAN
from matryoshka2d.report.figures import Grids, named_grids, panels
from matryoshka2d.report.scale import COLOUR_MAP, full_title, metric_label, shared_title
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*Xhpd<>"
# The lightest end of the colour map does not show as a line on white.
_DARK_PART = 0.85
_PANEL_INCHES = (5.6, 3.9)

_Point = Callable[[Size], int]


def depth_curves(grids: Grids, *, set_name: str = MEAN, title: str | None = None) -> Figure:
    """Draw quality against layers run, one line for every width.

    Parameters
    ----------
    grids
        One grid, or title → grid: one panel each, on the same scale.
    set_name
        One set, or the mean over sets.
    title
        Above the whole figure; model, metric and sets by default.
    """
    figure, axes = _curves(grids, set_name, title, across=_layers, line=_dims, label="dims")
    for axis, grid in zip(axes, named_grids(grids).values(), strict=True):
        axis.set_xlabel("layers run")
        axis.set_xticks(grid.layers)
    return figure


def width_curves(grids: Grids, *, set_name: str = MEAN, title: str | None = None) -> Figure:
    """Draw quality against dims kept, on a logarithmic axis, one line for every depth.

    Parameters
    ----------
    grids, set_name, title
        As in `depth_curves`.
    """
    figure, axes = _curves(grids, set_name, title, across=_dims, line=_layers, label="layers")
    for axis, grid in zip(axes, named_grids(grids).values(), strict=True):
        axis.set_xlabel("dims kept (log scale)")
        axis.set_xscale("log", base=2)
        axis.set_xticks(grid.dims, [str(d) for d in grid.dims], fontsize=8)
        axis.minorticks_off()
    return figure


def _layers(size: Size) -> int:
    return size.layers


def _dims(size: Size) -> int:
    return size.dims


def _curves(
    grids: Grids, set_name: str, title: str | None, *, across: _Point, line: _Point, label: str
) -> tuple[Figure, list[Axes]]:
    table = named_grids(grids)
    figure, axes = panels(len(table), *_PANEL_INCHES)
    lines = sorted({line(size) for grid in table.values() for size in grid.sizes}, reverse=True)
    for axis, (name, grid) in zip(axes, table.items(), strict=True):
        _draw(axis, grid.values(set_name), lines, across=across, line=line, label=label)
        axis.set_ylabel(metric_label(grid))
        if len(table) > 1:
            axis.set_title(name, fontsize=11)
    _same_height(axes)
    first = next(iter(table.values()))
    own = full_title if len(table) == 1 else shared_title
    figure.suptitle(title or own(first, set_name), fontsize=12)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    return figure, axes


def _draw(
    axis: Axes, values: dict[Size, float], lines: list[int], *, across: _Point, line: _Point, label: str
) -> None:
    from matplotlib import colormaps

    for number, key in enumerate(lines):
        points = [(across(size), value) for size, value in values.items() if line(size) == key]
        share = _DARK_PART * number / max(1, len(lines) - 1)
        axis.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4.5,
            linewidth=1.5,
            color=colormaps[COLOUR_MAP](share),
            label=f"{key} {label if key > 1 else label.removesuffix('s')}",
        )
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _same_height(axes: list[Axes]) -> None:
    limits = [axis.get_ylim() for axis in axes]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    for axis in axes:
        axis.set_ylim(low, high)
