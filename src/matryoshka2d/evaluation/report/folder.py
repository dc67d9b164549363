"""The folder of an evaluation: the grids as JSON and CSV, a heatmap and a report of every task."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matryoshka2d.evaluation.evaluator import Evaluation
from matryoshka2d.evaluation.report.figures import heatmap, save_figure
from matryoshka2d.evaluation.report.html import write_report
from matryoshka2d.files import staged_folder


def write_folder(
    path: str | os.PathLike[str],
    evaluation: Evaluation,
    *,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``grid.json``, and ``grid.csv``, ``heatmap.png`` and ``report.html`` of every task.

    Files of the first task have these names; those of a further one end in its name, as
    ``grid-retrieval.csv``.

    Parameters
    ----------
    path
        The folder, written whole or not at all.
    evaluation
        What `matryoshka2d.evaluate` returned.
    provenance
        Facts that the reports keep with the numbers, as the command.
    overwrite
        Whether an existing folder may be replaced.

    Raises
    ------
    UserError
        If the folder exists and may not be replaced, or cannot be written.
    """
    with staged_folder(Path(path), overwrite=overwrite) as folder:
        (folder / "grid.json").write_text(json.dumps(evaluation.to_dict(), indent=1), encoding="utf-8")
        for number, (task, by_cut) in enumerate(evaluation.grids.items()):
            suffix = f"-{task}" if number else ""
            main = by_cut["prefix"]
            (folder / f"grid{suffix}.csv").write_text(main.to_csv(), encoding="utf-8")
            named = {f"{cut} cut": grid for cut, grid in by_cut.items()}
            save_figure(heatmap(named if len(named) > 1 else main), folder / f"heatmap{suffix}.png")
            others = {name: grid for name, grid in named.items() if grid is not main}
            write_report(folder / f"report{suffix}.html", main, comparisons=others, provenance=provenance)
