"""What every picture shares: no global state, panels in rows of two, and saving whole files."""

from __future__ import annotations

import base64
import io
import math
import os
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.errors import UserError, needs
from matryoshka2d.evaluation.grid import MEAN, Grid
from matryoshka2d.evaluation.report.color_scale import (
    COLOR_MAP,
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

Grids = Grid | Mapping[str, Grid]

_SUFFIXES = (".png", ".svg", ".pdf")
_PANELS_A_ROW = 2
_ROW_INCHES = 14  # as many panels a row as fit, where they are narrow


def named_grids(grids: Grids) -> dict[str, Grid]:
    """Return title → grid; a single grid gets its own name.

    Raises
    ------
    UserError
        If there is none, or they were measured differently and cannot share a scale.
    """
    table = {grids.name: grids} if isinstance(grids, Grid) else dict(grids)
    if not table:
        raise UserError("no grid to draw: expected at least one")
    first = next(iter(table.values()))
    for title, grid in table.items():
        if (grid.metric, set(grid.sets)) != (first.metric, set(first.sets)):
            raise UserError(
                f"grid '{title}' measures {grid.metric} on {', '.join(grid.sets)}, the first "
                f"{first.metric} on {', '.join(first.sets)}: "
                "compare grids of the same metric and sets"
            )
    return table


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels of that size in inches, in rows of two or more."""
    needs("report", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, max(_PANELS_A_ROW, int(_ROW_INCHES / width)))
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(count)]
    return figure, axes


def save_figure(
    figure: Figure, path: str | os.PathLike[str], *, dpi: int = 160, overwrite: bool = True
) -> Path:
    """Write a figure as PNG, SVG or PDF, by the ending of its name.

    Parameters
    ----------
    figure
        What `heatmap`, `depth_curves` or `width_curves` gives.
    path
        Where to write; missing folders are made.
    dpi
        Dots an inch of a PNG. Raise it to 300 for print.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    UserError
        If the ending is another, or the file cannot be written.
    """
    from matryoshka2d.files import staged_file

    target = Path(path)
    if target.suffix.lower() not in _SUFFIXES:
        raise UserError(f"cannot draw {target}: expected a name that ends in {', '.join(_SUFFIXES)}")
    kind = target.suffix.lower()[1:]
    with staged_file(target, overwrite=overwrite) as temporary:
        # No date inside, so that the same numbers give the same file.
        undated: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=undated)
    return target


def png_bytes(figure: Figure, dpi: int = 160) -> bytes:
    """Return a figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def embedded(png: bytes) -> str:
    """Return a PNG as the address of a picture inside a page.

    In the 256 colors nearest to its own: enough for a chart, and a page is a third as large.

    Examples
    --------
    >>> from PIL import Image
    >>> buffer = io.BytesIO()
    >>> Image.new("RGB", (2, 2), "teal").save(buffer, "png")
    >>> embedded(buffer.getvalue()).partition(",")[0]
    'data:image/png;base64'
    """
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").quantize(256).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


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
    """Draw one grid, or several side by side on one color scale.

    Parameters
    ----------
    grids
        One grid, or title → grid, such as ``{"before": ..., "after": ...}``; of the same metric and sets.
    set_name
        One set, or the mean over sets.
    tolerance
        Steps down larger than this many points carry a mark: see `Grid.inversions`.
    scale
        The ends of the colors; those of all cells shown by default. Name them to compare figures.
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
    colors = scale or Scale.of(table.values(), set_name)
    layers = sorted({n for grid in table.values() for n in grid.layers})
    dims = sorted({d for grid in table.values() for d in grid.dims})
    width = max(4.4, len(dims) * _CELL_INCHES[0] + _MARGIN_INCHES[0])
    figure, axes = panels(
        len(table),
        width,
        max(2.4, len(layers) * _CELL_INCHES[1] + _MARGIN_INCHES[1]),
    )
    for axis, (name, grid) in zip(axes, table.items(), strict=True):
        _draw_heatmap(
            axis,
            grid.values(set_name),
            inverted(grid, tolerance, set_name),
            layers=layers,
            dims=dims,
            scale=colors,
        )
        if len(table) > 1:
            mean = f"(mean of cells {grid.mean_over_sizes(set_name):.2f})"
            axis.set_title(_title(name, mean, int(width * _LETTERS_AN_INCH)), fontsize=11)
    _finish(figure, axes, next(iter(table.values())), set_name, colors)
    any_marked = any(inverted(grid, tolerance, set_name) for grid in table.values())
    first = next(iter(table.values()))
    own = full_title if len(table) == 1 else shared_title
    figure.suptitle(title or own(first, set_name), fontsize=12)
    if any_marked:
        figure.supxlabel(legend(tolerance, _MARK), fontsize=9, color="#444444")
    return figure


def _title(name: str, mean: str, letters: int) -> str:
    """Return a title on one line, or on more where its neighbor would be in its way."""
    whole = f"{name} {mean}"
    return whole if len(whole) <= letters else f"{textwrap.fill(name, letters)}\n{mean}"


def _draw_heatmap(
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
        table, cmap=COLOR_MAP, vmin=scale.low, vmax=_high(scale), edgecolors="white", linewidth=0.6
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

    mappable = ScalarMappable(Normalize(scale.low, _high(scale)), COLOR_MAP)
    bar = figure.colorbar(mappable, ax=axes, pad=0.02, aspect=25)
    bar.set_label(f"{metric_label(grid)}, {sets_label(grid, set_name)}", fontsize=9)
    bar.outline.set_visible(False)


_MARKERS = "osD^vP*Xhpd<>"
# The lightest end of the color map does not show as a line on white.
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
        _draw_curves(axis, grid.values(set_name), lines, across=across, line=line, label=label)
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


def _draw_curves(
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
            color=colormaps[COLOR_MAP](share),
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
