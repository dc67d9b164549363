"""What every picture shares: no global state, panels in rows of two, and saving whole files."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.grid import Grid

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

    In the 256 colours nearest to its own: enough for a chart, and a page is a third as large.

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
