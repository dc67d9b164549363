"""The application: its commands, in the order in which a user meets them."""

from __future__ import annotations

import typer

from matryoshka2d.cli.benchmark import benchmark
from matryoshka2d.cli.encode import encode, quantize
from matryoshka2d.cli.evaluate import evaluate
from matryoshka2d.cli.export import export, truncate
from matryoshka2d.cli.index import index
from matryoshka2d.cli.plan import plan_command
from matryoshka2d.cli.recut import recut_command
from matryoshka2d.cli.search import search
from matryoshka2d.cli.serve import serve_command
from matryoshka2d.cli.train import distill_command, fit_command, rotate_command, train_command
from matryoshka2d.cli.tune import tune_command

app = typer.Typer(
    help="One sentence-embedding model, any depth, any width: train, look at the grid, ship a size.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    show: bool = typer.Option(False, "--version", help="Show the version and stop."),
) -> None:
    """Print the version, if asked to."""
    if show:
        from matryoshka2d import __version__

        print(f"matryoshka2d {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


app.command("fit")(fit_command)
app.command("distill")(distill_command)
app.command("train")(train_command)
app.command("rotate")(rotate_command)
app.command()(evaluate)
app.command("plan")(plan_command)
app.command(hidden=True)(truncate)
app.command()(export)
app.command()(encode)
app.command("serve")(serve_command)
app.command()(index)
app.command()(search)
app.command("tune")(tune_command)
app.command("recut")(recut_command)
app.command()(quantize)
app.command("quantise", hidden=True)(quantize)
app.command()(benchmark)
