"""matryoshka2d report: what the results of a plan say, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matryoshka2d.cli.common import Json, Quiet, print_json, quiet_libraries


def report(
    results: Annotated[list[Path], typer.Argument(help="Folders of results, one a plan: results/tier1.")],
    runs: Annotated[Path, typer.Option(help="Where `reproduce` kept the scores of each pair.")] = Path(
        "runs"
    ),
    page: Annotated[
        Path | None, typer.Option(help="Also write all reports into one Markdown page, as docs/results.md.")
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=20, help="How often seeds and pairs are drawn anew for the intervals.")
    ] = 1000,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write tables with intervals, heatmaps, curves and one HTML page beside the results.

    Example: matryoshka2d report results/tier1
    """
    quiet_libraries()
    from matryoshka2d_reproduction.joint_page import write_joint_page
    from matryoshka2d_reproduction.report import write_results_report

    written = [
        path for folder in results for path in write_results_report(folder, runs=runs, resamples=resamples)
    ]
    if page is not None:
        written.append(write_joint_page(results, page, runs=runs, resamples=resamples))
    if json:
        print_json({"written": [path.as_posix() for path in written]})
    elif not quiet:
        for path in written:
            print(path)
