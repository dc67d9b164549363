"""The report: one HTML file with everything inside, which opens anywhere, offline."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matryoshka2d.evaluation.grid import MEAN, Grid
from matryoshka2d.evaluation.report.color_scale import (
    Scale,
    documents_label,
    hexadecimal,
    inverted,
    legend,
    metric_label,
    sets_label,
    two_decimals,
)
from matryoshka2d.evaluation.report.figures import (
    depth_curves,
    embedded,
    heatmap,
    named_grids,
    png_bytes,
    width_curves,
)
from matryoshka2d.size import Size

_MARK = "▾"
_TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Cell:
    """One cell of a colored table, as the template reads it."""

    text: str
    ground: str
    ink: str
    mark: str = ""
    change: str = ""
    direction: str = ""


@dataclass(frozen=True)
class Section:
    """One colored table: rows are (layers, cells), a cell is None where the grid has no such size."""

    title: str
    dims: tuple[int, ...]
    rows: tuple[tuple[int, tuple[Cell | None, ...]], ...]
    mean_over_sizes: str


def write_report(
    path: str | os.PathLike[str],
    grid: Grid,
    *,
    title: str | None = None,
    comparisons: Mapping[str, Grid] | None = None,
    provenance: Mapping[str, Any] | None = None,
    tolerance: float = 0.1,
    overwrite: bool = True,
) -> Path:
    """Write the report of a grid as one self-contained HTML file.

    Parameters
    ----------
    path
        Where to write; missing folders are made.
    grid
        The grid that the report is about.
    title
        The heading; the name of the grid by default.
    comparisons
        Title → grid of the same metric and sets, such as ``{"before training": ..., "PCA cut": ...}``.
    provenance
        Facts to keep with the numbers: the command, the model's folder, versions.
    tolerance
        Steps down larger than this many points are marked: see `Grid.inversions`.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    UserError
        If a comparison has another metric or other sets, or the file cannot be written.
    """
    from matryoshka2d.files import staged_file

    text = render_report(
        grid, title=title, comparisons=comparisons, provenance=provenance, tolerance=tolerance
    )
    with staged_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def render_report(
    grid: Grid,
    *,
    title: str | None = None,
    comparisons: Mapping[str, Grid] | None = None,
    provenance: Mapping[str, Any] | None = None,
    tolerance: float = 0.1,
) -> str:
    """Return the text of the report; arguments as in `write_report`."""
    import jinja2

    others = dict(comparisons or {})
    own_name = grid.name if grid.name and grid.name not in others else "this model"
    shown = named_grids({own_name: grid, **others})
    scale = Scale.of(shown.values())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("matryoshka2d.evaluation.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(_TEMPLATE).render(
        title=title or grid.name or "Grid of sizes",
        metric=metric_label(grid),
        sets=sets_label(grid),
        set_names=", ".join(grid.sets),
        documents=documents_label(grid),
        facts=_facts(grid),
        main_name=own_name,
        main=_section("", grid, scale, tolerance),
        inversions=[str(inversion) for inversion in grid.inversions(tolerance)],
        legend=legend(tolerance, _MARK),
        comparisons=[_section(name, other, scale, tolerance, main=grid) for name, other in others.items()],
        per_set=_per_set(grid, tolerance) if len(grid.sets) > 1 else [],
        heatmap=embedded(png_bytes(heatmap(shown, tolerance=tolerance, title=" "))),
        depth=embedded(png_bytes(depth_curves(shown, title=" "))),
        width=embedded(png_bytes(width_curves(shown, title=" "))),
        provenance=list(_provenance(grid, provenance or {})),
    )


def _facts(grid: Grid) -> list[tuple[str, str]]:
    """Return the numbers that stand at the top."""
    largest, best = grid.sizes[-1], grid.best()
    return [
        (f"largest size, {largest}", two_decimals(grid.mean(largest))),
        (f"best size, {best}", two_decimals(grid.mean(best))),
        (f"smallest size, {grid.sizes[0]}", two_decimals(grid.mean(grid.sizes[0]))),
        (f"mean over {len(grid.sizes)} sizes", two_decimals(grid.mean_over_sizes())),
    ]


def _section(
    title: str,
    grid: Grid,
    scale: Scale,
    tolerance: float,
    *,
    main: Grid | None = None,
    set_name: str = MEAN,
) -> Section:
    values, marked = grid.values(set_name), inverted(grid, tolerance, set_name)
    against = {} if main is None else main.values(set_name)

    def cell(size: Size) -> Cell | None:
        if size not in values:
            return None
        change = against.get(size, math.nan) - values[size]
        return Cell(
            two_decimals(values[size]),
            hexadecimal(scale.color(values[size])),
            hexadecimal(scale.ink(values[size])),
            _MARK if size in marked else "",
            "" if math.isnan(change) else _signed(change),
            _direction(change),
        )

    rows = tuple((n, tuple(cell(Size(n, d)) for d in grid.dims)) for n in grid.layers)
    return Section(title, grid.dims, rows, two_decimals(grid.mean_over_sizes(set_name)))


def _signed(change: float) -> str:
    # A true minus sign is as wide as the plus, so that columns line up.
    return "0.00" if abs(change) < 0.005 else f"{change:+.2f}".replace("-", "−")


def _direction(change: float) -> str:
    if math.isnan(change) or abs(change) < 0.005:
        return "same"
    return "better" if change > 0 else "worse"


def _per_set(grid: Grid, tolerance: float) -> list[Section]:
    return [_section(name, grid, Scale.of([grid], name), tolerance, set_name=name) for name in grid.sets]


def _provenance(grid: Grid, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    own = {"model": grid.name, "metric": grid.metric, "cut": grid.cut}
    yield from ((key, text) for key, text in own.items() if text)
    yield from ((key, _plain(value)) for key, value in {**grid.details, **facts}.items())
    yield "matryoshka2d", version("matryoshka2d")


def _plain(value: Any) -> str:
    """Return a JSON value as words.

    >>> _plain({"sts12": 3108, "sts13": 1500})
    'sts12 3108, sts13 1500'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(inner) for inner in value)
    return str(value)
