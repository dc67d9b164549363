"""matryoshka2d reproduce: a plan of methods x seeds x backbones x data, run once each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matryoshka2d.cli.common import Json, Quiet, print_json, quiet_libraries, say
from matryoshka2d.errors import UserError


def reproduce(
    plan: Annotated[Path, typer.Argument(help="YAML file: methods, seeds, backbones, data, test sets.")],
    data: Annotated[
        str | None,
        typer.Option(envvar="MATRYOSHKA2D_DATA", help="Folder in which the plan's data files are found."),
    ] = None,
    results: Annotated[
        Path, typer.Option(help="Folder of results; the plan gets a folder of its name in it.")
    ] = Path("results"),
    runs: Annotated[Path, typer.Option(help="Folder of models and scores: a cache, not a result.")] = Path(
        "runs"
    ),
    only: Annotated[
        list[str], typer.Option(help="Run only this method; repeat for more. What it needs is trained too.")
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    seeds: Annotated[str | None, typer.Option(help="Run only these seeds, as 0,1.")] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, help="Start nothing that would not be done within so many hours.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side, each a process with one thread.")] = 1,
    keep_models: Annotated[bool, typer.Option(help="Keep every model, not only those others need.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Run the whole plan with tiny random models on made-up text, and keep nothing."
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the methods of a plan, with its seeds, and measure each at every size.

    A run that is there already is not repeated, so that a killed command goes on where it was. The expected
    hours are said first.

    Example: matryoshka2d reproduce plans/tier1.yaml --data DATA
    """
    from matryoshka2d_reproduction.plan_reading import read_plan

    table = read_plan(plan)
    if data is None and not dry_run:
        raise UserError(
            "no data folder: expected --data FOLDER or the environment variable MATRYOSHKA2D_DATA"
        )
    quiet_libraries()
    from matryoshka2d_reproduction.request import Request
    from matryoshka2d_reproduction.running import reproduce

    request = Request(
        plan=table,
        data_folder=data or "",
        results=results / table.name,
        runs=runs,
        source=plan.as_posix() if not plan.is_absolute() else plan.name,
        only=tuple(only),
        seeds=_seeds(seeds),
        hours=hours,
        jobs=jobs,
        keep_models=keep_models,
    )
    if dry_run:
        from matryoshka2d_reproduction.dry_run import rehearse

        outcome = rehearse(request, lambda text: say(text, silent=quiet or json))
    else:
        outcome = reproduce(request, lambda text: say(text, silent=quiet or json))
    if json:
        print_json({"done": outcome.done, "found": outcome.found, "left": outcome.left})
    elif not quiet:
        left = f", {len(outcome.left)} left: the same command goes on with them" if outcome.left else ""
        print(f"{len(outcome.done)} runs done, {len(outcome.found)} were there{left}.")
        if not dry_run:
            print(f"Next: matryoshka2d report {request.results}")


def _seeds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError as error:
        raise UserError(f"seeds '{text}': expected whole numbers with commas, as 0,1,2") from error
