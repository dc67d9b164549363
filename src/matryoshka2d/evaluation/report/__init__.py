"""Showing a grid: tables, heatmaps, curves, and one HTML file with all of them."""

from __future__ import annotations

from matryoshka2d.evaluation.report.color_scale import Scale, metric_label, sets_label
from matryoshka2d.evaluation.report.figures import (
    depth_curves,
    heatmap,
    png_bytes,
    save_figure,
    width_curves,
)
from matryoshka2d.evaluation.report.folder import write_folder
from matryoshka2d.evaluation.report.html import render_report, write_report
from matryoshka2d.evaluation.report.tables import grid_table, markdown_table, sets_table

__all__ = [
    "Scale",
    "depth_curves",
    "grid_table",
    "heatmap",
    "markdown_table",
    "metric_label",
    "png_bytes",
    "render_report",
    "save_figure",
    "sets_label",
    "sets_table",
    "width_curves",
    "write_folder",
    "write_report",
]
