"""Showing a plan: a table, a picture of the Pareto front, text for a terminal, an HTML page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matryoshka2d.errors import needs
from matryoshka2d.evaluation.report.color_scale import COLOR_MAP, two_decimals
from matryoshka2d.evaluation.report.figures import embedded, panels, png_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table

    from matryoshka2d.planning.budget import Row
    from matryoshka2d.planning.result import Plan

_MOST_ROWS = 16
_PANEL_INCHES = (6.0, 4.2)
# The lightest end of the color map does not show as a point on white.
_DARK_PART = 0.88
_CHOSEN = "#d1242f"
_FORBIDDEN = "#b0b7be"


# --- the table ----------------------------------------------------------------------------------------


def table_rows(plan: Plan, most: int | None = _MOST_ROWS) -> tuple[tuple[Row, ...], int]:
    """Return the rows to show, the best first, and how many of the front were left out.

    The chosen size and the nearest ones are always there; then comes the front, sizes that obey first.
    """
    obeying = {row.size for row in plan.choice.obeying}
    always = [*([plan.row] if plan.row else []), *(miss.row for miss in plan.nearest)]
    others = [row for row in plan.front if row not in always]
    others.sort(key=lambda row: (row.size not in obeying, -row.score))
    room = len(others) if most is None else max(0, most - len(always))
    shown = sorted([*always, *others[:room]], key=lambda row: (-row.score, row.size))
    return tuple(shown), len(others) - len(others[:room])


def headings(plan: Plan) -> tuple[str, ...]:
    """Return the heads of the columns."""
    kept = "agrees" if plan.quality.fidelity else "kept"
    index = "vector" if plan.budget.documents is None else "index"
    memory = ["memory"] if _has_memory(plan) else []
    return ("size", kept, "interval", "score", "p50 ms", "p95 ms", "texts/s", *memory, index)


def cells(plan: Plan, row: Row) -> tuple[str, ...]:
    """Return one row of the table as text, in the order of `headings`."""
    from matryoshka2d.planning.units import show_bytes, show_percent, show_rate, three_digits

    interval = "–" if math.isnan(row.kept_low) else f"{100 * row.kept_low:.1f}–{100 * row.kept_high:.1f}"
    return (
        str(row.size),
        show_percent(row.kept),
        interval,
        two_decimals(row.score),
        three_digits(1000 * row.latency_p50),
        three_digits(1000 * row.latency_p95),
        show_rate(row.throughput).removesuffix("/s"),
        *([show_bytes(row.memory)] if _has_memory(plan) else []),
        show_bytes(row.vector if plan.budget.documents is None else row.index),
    )


def _has_memory(plan: Plan) -> bool:
    return not all(math.isnan(row.memory) for row in plan.rows)


def _state(plan: Plan, row: Row) -> str:
    """Return what the budget says of a row: take it, it obeys, or neither."""
    if row.size == plan.size:
        return "take"
    return "obeys" if row.size in {one.size for one in plan.choice.obeying} else "out"


_MARKS = {"take": "→", "obeys": "✓", "out": ""}


def plan_table(plan: Plan) -> Table:
    """Return the Pareto front for a terminal, the chosen size marked.

    Print it with ``rich.console.Console().print(table)``.
    """
    needs("cli", "rich")
    from rich import box
    from rich.table import Table

    shown, left_out = table_rows(plan)
    legend = ["→ take", "✓ obeys"] if plan.size else []
    more = [f"{left_out} more on the front: --json or --output shows them"] if left_out else []
    # One more column leaves a terminal of 80 characters less room between them.
    padding = (0, 0 if _has_memory(plan) else 1, 0, 0)
    caption = ", ".join(legend + more) or None
    table = Table(box=box.SIMPLE_HEAD, padding=padding, pad_edge=False, caption=caption)
    table.add_column("", no_wrap=True)
    for heading in headings(plan):
        table.add_column(heading, justify="right", no_wrap=True)
    styles = {"take": "bold green", "obeys": "", "out": "dim"}
    for row in shown:
        state = _state(plan, row)
        table.add_row(_MARKS[state], *cells(plan, row), style=styles[state])
    return table


# --- text ---------------------------------------------------------------------------------------------


def print_plan(plan: Plan, console: Console) -> None:
    """Print a plan: the answer, why, the front, what more would buy, and what to know."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(Text(plan.headline, style="bold" if plan.size else "bold red"))
    for title, lines in (
        ("", plan.reasons),
        ("table", ()),
        ("relaxing", plan.relaxed()),
        ("note", plan.notes),
    ):
        if title == "table":
            console.print(plan_table(plan))
            continue
        if title == "relaxing" and lines:
            console.print("What relaxing would buy:")
        if title == "note" and lines:
            console.print("To know:")
        for line in lines:
            console.print(Padding(Text(f"- {line}"), (0, 0, 0, 2)))


# --- the picture --------------------------------------------------------------------------------------


def plan_figure(plan: Plan) -> Figure:
    """Draw quality against latency, colored by dims, and against bytes a vector, colored by layers.

    The stairs are the front: the best quality that a cost buys. Filled points obey the budget, hollow ones
    do not; the chosen size carries its interval. What the budget forbids is shaded.
    """
    figure, (left, right) = panels(2, *_PANEL_INCHES)
    what = "Agreement with the full size" if plan.quality.fidelity else "Quality kept"
    _panel(plan, left, x=lambda row: 1000 * row.latency_p95, key=lambda row: row.size.dims, legend="dims")
    left.set_xlabel("latency of one text, p95 (ms)")
    left.set_xlim(left=0)
    left.set_ylabel(f"{what} (% of the full size)")
    _panel(plan, right, x=lambda row: row.vector, key=lambda row: row.size.layers, legend="layers")
    right.set_xscale("log", base=2)
    ticks = sorted({row.vector for row in plan.rows})
    right.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    right.minorticks_off()
    right.set_xlabel(f"bytes a vector, {plan.budget.precision} (log scale)")
    budget = plan.budget
    _shade(left, budget.min_quality, None if budget.max_latency is None else 1000 * budget.max_latency)
    most = None if budget.max_index is None or not budget.documents else budget.max_index / budget.documents
    _shade(right, budget.min_quality, most)
    title = f"take {plan.size}" if plan.size else plan.headline
    figure.suptitle(f"{plan.model}: {title}\n{budget}", fontsize=11)
    return figure


def _panel(
    plan: Plan, axis: Axes, *, x: Callable[[Row], float], key: Callable[[Row], int], legend: str
) -> None:
    from matplotlib import colormaps

    obeying = {row.size for row in plan.choice.obeying}
    drawn = [row for row in plan.rows if not math.isnan(row.kept)]
    keys = sorted({key(row) for row in drawn})
    for number, one in enumerate(keys):
        color = colormaps[COLOR_MAP](_DARK_PART * number / max(1, len(keys) - 1))
        rows = [row for row in drawn if key(row) == one]
        axis.plot(
            [x(row) for row in rows], [100 * row.kept for row in rows], color=color, linewidth=0.8, alpha=0.5
        )
        for inside in (True, False):
            some = [row for row in rows if (row.size in obeying) == inside]
            axis.scatter(
                [x(row) for row in some],
                [100 * row.kept for row in some],
                s=26,
                facecolors=color if inside else "white",
                edgecolors=color,
                linewidths=1.0,
                zorder=3,
            )
        label = legend if one > 1 else legend.removesuffix("s")
        axis.plot([], [], "o", color=color, markersize=5, label=f"{one} {label}")
    _draw_front(axis, drawn, x)
    _mark_chosen(plan, axis, x)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if keys:
        axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_front(axis: Axes, rows: Sequence[Row], x: Callable[[Row], float]) -> None:
    """Draw the stairs of the best quality that each cost buys."""
    best: list[tuple[float, float]] = []
    for cost, kept in sorted(((x(row), 100 * row.kept) for row in rows), key=lambda one: (one[0], -one[1])):
        if not best or kept > best[-1][1]:
            best.append((cost, kept))
    if best:
        costs, kepts = zip(*best, strict=True)
        axis.step(costs, kepts, where="post", color="#24292f", linewidth=1.4, zorder=2, label="front")


def _mark_chosen(plan: Plan, axis: Axes, x: Callable[[Row], float]) -> None:
    marked: Sequence[Row] = [plan.row] if plan.row else [miss.row for miss in plan.nearest]
    for number, row in enumerate(marked):
        low, high = max(0.0, row.kept - row.kept_low), max(0.0, row.kept_high - row.kept)
        axis.errorbar(
            [x(row)],
            [100 * row.kept],
            yerr=[[100 * low], [100 * high]],
            fmt="*" if plan.row else "D",
            markersize=13 if plan.row else 6,
            color=_CHOSEN,
            capsize=3,
            zorder=4,
        )
        # The nearest are often neighbors, whose names would lie on each other: the title has them all.
        if number:
            continue
        axis.annotate(
            str(row.size),
            (x(row), 100 * row.kept),
            xytext=(7, -12),
            textcoords="offset points",
            color=_CHOSEN,
            fontsize=9,
            fontweight="bold",
        )


def _shade(axis: Axes, floor: float | None, most: float | None) -> None:
    """Shade what the budget forbids: below the floor, right of the limit."""
    x_limits, y_limits = axis.get_xlim(), axis.get_ylim()
    if floor is not None:
        axis.axhline(100 * floor, color="#57606a", linewidth=0.9, linestyle="--")
        axis.axhspan(min(y_limits[0], 100 * floor), 100 * floor, color=_FORBIDDEN, alpha=0.22, linewidth=0)
    if most is not None:
        axis.axvline(most, color="#57606a", linewidth=0.9, linestyle="--")
        axis.axvspan(most, max(x_limits[1], most), color=_FORBIDDEN, alpha=0.22, linewidth=0)
    axis.set_xlim(x_limits)
    axis.set_ylim(y_limits)


# --- HTML ---------------------------------------------------------------------------------------------


def plan_page(plan: Plan) -> str:
    """Return one self-contained HTML page."""
    import jinja2

    shown, left_out = table_rows(plan, None)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("matryoshka2d.planning"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    picture = embedded(png_bytes(plan_figure(plan), 110))
    return environment.get_template("plan.html.jinja").render(
        plan=plan,
        headings=headings(plan),
        rows=[(cells(plan, row), _state(plan, row)) for row in shown],
        left_out=left_out,
        relaxed=plan.relaxed(),
        picture=picture,
    )
