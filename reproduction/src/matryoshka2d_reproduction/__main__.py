"""The command ``matryoshka2d-reproduce``: run a plan, report its results, pretrain a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matryoshka2d import UserError
from matryoshka2d.cli import Json, Quiet, command_of_choices, print_json, quiet_libraries, run_app, say
from matryoshka2d_reproduction.pretraining.options import PretrainingOptions

app = typer.Typer(
    help="Run the plans behind matryoshka2d's results again, and report them with intervals.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CacheOption = Annotated[Path, typer.Option(help="Folder of models and of every pair's score: no result.")]


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    run_app(app, "matryoshka2d-reproduce")


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="YAML file: methods, seeds, backbones, data, test sets.")],
    data: Annotated[
        str | None,
        typer.Option(envvar="MATRYOSHKA2D_DATA", help="Folder in which the plan's data files are found."),
    ] = None,
    results: Annotated[
        Path, typer.Option(help="Folder of results; the plan gets a folder of its name in it.")
    ] = Path("results"),
    cache: CacheOption = Path("cache"),
    only: Annotated[
        list[str], typer.Option(help="Run only this method; repeat for more. What it needs is trained too.")
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    seeds: Annotated[str | None, typer.Option(help="Run only these seeds, as 0,1.")] = None,
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

    A run that is there already is not repeated, so that a killed command goes on where it was.

    Example: matryoshka2d-reproduce run plans/tier1.yaml --data DATA
    """
    from matryoshka2d_reproduction.plan import read_plan

    table = read_plan(plan)
    if data is None and not dry_run:
        raise UserError(
            "no data folder: expected --data FOLDER or the environment variable MATRYOSHKA2D_DATA"
        )
    quiet_libraries()
    from matryoshka2d_reproduction.dry_run import rehearse
    from matryoshka2d_reproduction.runner import reproduce
    from matryoshka2d_reproduction.runs import Request

    request = Request(
        plan=table,
        data_folder=data or "",
        results=results / table.name,
        cache=cache,
        source=plan.as_posix() if not plan.is_absolute() else plan.name,
        only=tuple(only),
        seeds=_seeds(seeds),
        jobs=jobs,
        keep_models=keep_models,
    )
    outcome = (rehearse if dry_run else reproduce)(request, lambda text: say(text, silent=quiet or json))
    if json:
        print_json({"done": outcome.done, "found": outcome.found})
    elif not quiet:
        print(f"{len(outcome.done)} runs done, {len(outcome.found)} were there.")
        if not dry_run:
            print(f"Next: matryoshka2d-reproduce report {request.results}")


def _seeds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError as error:
        raise UserError(f"seeds '{text}': expected whole numbers with commas, as 0,1,2") from error


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="Folders of results, one a plan: results/tier1.")],
    cache: CacheOption = Path("cache"),
    page: Annotated[
        Path | None, typer.Option(help="Also write all reports into one Markdown page, as results.md.")
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=20, help="How often seeds and pairs are drawn anew for the intervals.")
    ] = 1000,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write tables with intervals, heatmaps and curves as a page beside the results.

    Example: matryoshka2d-reproduce report results/tier1
    """
    quiet_libraries()
    from matryoshka2d_reproduction.report import write_joint_page, write_report

    written = [path for folder in results for path in write_report(folder, cache=cache, resamples=resamples)]
    if page is not None:
        written.append(write_joint_page(results, page, cache=cache, resamples=resamples))
    if json:
        print_json({"written": [path.as_posix() for path in written]})
    elif not quiet:
        for path in written:
            print(path)


def _pretrain(options: PretrainingOptions, json: bool, quiet: bool) -> None:
    """Pretrain a model on plain texts, so that every listed size holds its sentence; then train it.

    Example: matryoshka2d-reproduce pretrain --data texts.txt --sizes "1x64 3x128 6x384" --output my-body
    """
    options.check_ready()
    quiet_libraries()
    from matryoshka2d_reproduction.pretraining import pretrain

    encoder = pretrain(options, quiet=quiet or json)
    summary = {"output": options.output, "full_size": str(encoder.size), "sizes": encoder.record["sizes"]}
    if json:
        print_json(summary)
    elif not quiet:
        print(
            f"Wrote {options.output}, pretrained at {' '.join(summary['sizes'])}. "
            f"Next: matryoshka2d train --model {options.output} --data pairs.jsonl --output my-model"
        )


app.command("pretrain")(command_of_choices(PretrainingOptions, _pretrain))


if __name__ == "__main__":
    main()
