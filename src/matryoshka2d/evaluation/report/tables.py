"""The grid as text: a colored table for the terminal, a plain one for Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from matryoshka2d.errors import needs
from matryoshka2d.evaluation.grid import MEAN, Grid
from matryoshka2d.evaluation.report.color_scale import (
    Scale,
    full_title,
    hexadecimal,
    inverted,
    legend,
    two_decimals,
)
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_MARK = "!"


def grid_table(
    grid: Grid,
    *,
    set_name: str = MEAN,
    tolerance: float = 0.1,
    scale: Scale | None = None,
    title: str | None = None,
) -> Table:
    """Return the grid for a terminal: layers as rows, dims as columns, colors by score.

    Parameters
    ----------
    grid
        The grid.
    set_name
        One set, or the mean over sets.
    tolerance
        Steps down larger than this many points are marked: see `Grid.inversions`.
    scale
        The ends of the colors; those of this grid by default. Share one between tables that are compared.
    title
        Model, metric and sets by default.

    Returns
    -------
    rich.table.Table
        Print it with ``rich.console.Console().print(table)``.
    """
    needs("cli", "rich")
    from rich.table import Table

    values, marked = grid.values(set_name), inverted(grid, tolerance, set_name)
    colors = scale or Scale.of([grid], set_name)
    table = Table(
        title=title or full_title(grid, set_name),
        caption=f"rows: layers run, columns: dims kept\n{legend(tolerance, _MARK)}" if marked else None,
        title_justify="left",
        caption_justify="left",
        # Eight widths fit into a terminal of 80 columns.
        padding=(0, 0, 0, 1),
    )
    table.add_column("layers", justify="right", style="bold", no_wrap=True)
    for dims in grid.dims:
        table.add_column(str(dims), justify="right", no_wrap=True)
    for layers in grid.layers:
        sizes = [Size(layers, dims) for dims in grid.dims]
        cells = [_cell(values[size], size in marked, colors) if size in values else "" for size in sizes]
        table.add_row(str(layers), *cells)
    return table


def _cell(value: float, is_marked: bool, scale: Scale) -> Text:
    from rich.text import Text

    ink, ground = hexadecimal(scale.ink(value)), hexadecimal(scale.color(value))
    return Text(f"{two_decimals(value)}{_MARK if is_marked else ' '}", style=f"{ink} on {ground}")


def sets_table(grid: Grid, *, sizes: Iterable[Size] | None = None, title: str | None = None) -> Table:
    """Return one row a size and one column a set, as the papers print them.

    Parameters
    ----------
    grid
        The grid.
    sizes
        The rows; all sizes by default.
    title
        Model and metric by default.
    """
    needs("cli", "rich")
    from rich.table import Table

    table = Table(title=title or full_title(grid), title_justify="left")
    table.add_column("size", justify="right", style="bold")
    for name in (*grid.sets, MEAN):
        table.add_column(name, justify="right", style="bold" if name == MEAN else None)
    columns = [grid.values(name) for name in (*grid.sets, MEAN)]
    for size in grid.sizes if sizes is None else sizes:
        table.add_row(str(size), *(two_decimals(values[size]) for values in columns))
    return table


def markdown_table(grid: Grid, *, set_name: str = MEAN, tolerance: float = 0.1) -> str:
    """Return the grid as a Markdown table: layers as rows, dims as columns, steps down marked.

    Examples
    --------
    >>> print(markdown_table(Grid((Size(1, 8), Size(2, 8)), {"stsb": (60.0, 50.0)})))
    | layers / dims | 8 |
    |---:|---:|
    | 1 | 60.00 |
    | 2 | 50.00! |
    <BLANKLINE>
    ! worse than one step shallower or narrower by more than 0.1
    <BLANKLINE>
    """
    values, marked = grid.values(set_name), inverted(grid, tolerance, set_name)
    lines = [_row("layers / dims", *map(str, grid.dims)), "|" + "---:|" * (len(grid.dims) + 1)]
    for layers in grid.layers:
        sizes = [Size(layers, dims) for dims in grid.dims]
        shown = [two_decimals(values[s]) + _MARK * (s in marked) if s in values else "" for s in sizes]
        lines.append(_row(str(layers), *shown))
    if marked:
        lines += ["", legend(tolerance, _MARK)]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
