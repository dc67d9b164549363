"""The application: its commands, in the order in which a user meets them, each imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class Command:
    """Where a command lives, and its line in the list of commands: the first of its docstring."""

    module: str
    function: str
    help: str
    hidden: bool = False

    def load(self, name: str) -> Any:
        """Import the command and return it as typer runs it."""
        alone = typer.Typer(add_completion=False)
        alone.command(name)(getattr(import_module(f"matryoshka2d.cli.{self.module}"), self.function))
        return typer.main.get_command(alone)


COMMANDS = {
    "fit": Command(
        "train",
        "fit_command",
        "Make a finished model elastic in a minute: no labels, no training, the full size as it was.",
    ),
    "distill": Command(
        "train",
        "distill_command",
        "Give a finished model a shallow tower for its small sizes: no labels, the full size as it was.",
    ),
    "train": Command(
        "train",
        "train_command",
        "Train an elastic model: one set of weights, good at every depth and every width.",
    ),
    "rotate": Command(
        "train",
        "rotate_command",
        "Make the narrow sizes of a finished model better in a minute or two: no labels, no training.",
    ),
    "evaluate": Command(
        "evaluate",
        "evaluate",
        "Measure a model at every size: Spearman x100 on STS, nDCG@10 on retrieval, from one pass a text.",
    ),
    "plan": Command(
        "plan",
        "plan_command",
        "Choose a size for a budget, from measured quality and from cost measured on this machine.",
    ),
    "truncate": Command(
        "export",
        "truncate",
        "Cut one size out of a model, as a plain sentence-transformers model that needs nothing of this "
        "package.",
        hidden=True,
    ),
    "export": Command(
        "export",
        "export",
        "Write a size for other software: sentence-transformers, ONNX Runtime or OpenVINO.",
    ),
    "encode": Command(
        "encode",
        "encode",
        "Embed a file of texts at a size; only the layers of that size are loaded and run.",
    ),
    "serve": Command(
        "serve",
        "serve_command",
        "Serve every size of a model over OpenAI's embeddings API, and a page to try it.",
    ),
    "index": Command(
        "index",
        "index",
        "Embed documents into an index. Run it again after a kill, or with more documents, and it goes on.",
    ),
    "search": Command("search", "search", "Find documents: first by the prefix, then by whole vectors."),
    "tune": Command(
        "tune",
        "tune_command",
        "Find the query depth, prefix and oversampling that reach a recall in the least time.",
    ),
    "recut": Command(
        "recut",
        "recut_command",
        "Give an index another prefix, other codes or fewer dims. Nothing is embedded.",
    ),
    **dict.fromkeys(
        ("quantize", "quantise"),
        Command(
            "encode",
            "quantize",
            "Write vectors in a byte or a bit a dim, as sentence-transformers and Faiss read them.",
            hidden=True,
        ),
    ),
    "benchmark": Command(
        "benchmark",
        "benchmark",
        "Measure a model on this machine: speed, latency, and agreement with fp32.",
    ),
}


class Commands(TyperGroup):
    """A group that lists its commands without importing them: `--help` needs names and lines alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {
            name: TyperCommand(name, help=command.help, hidden=command.hidden)
            for name, command in COMMANDS.items()
        }

    def resolve_command(self, context: Any, words: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the words name, imported, and the words left for it."""
        name, listed, rest = super().resolve_command(context, words)
        return name, COMMANDS[name].load(name) if name in COMMANDS else listed, rest


app = typer.Typer(
    cls=Commands,
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
