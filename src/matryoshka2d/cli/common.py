"""What the commands share: quiet libraries, machine-readable output, the options of every command."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Argument(help="The model: a folder, a hub name, or 'default'.")]
SizeOption = Annotated[
    str | None, typer.Option("--size", help="The size, LAYERSxDIMS, as 3x128. Default: the full size.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no notes.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps. Default: the best there is.")]
Pooling = Annotated[
    str | None, typer.Option(help="mean, cls or last: only for a plain transformers checkpoint.")
]
Qrels = Annotated[
    str | None,
    typer.Option(
        help="Judgments of --retrieval other than qrels.tsv and qrels/test.tsv: a file, or a split, as dev."
    ),
]
ExcludeSelf = Annotated[
    bool | None,
    typer.Option(
        "--exclude-self/--include-self",
        help="Never count the document of the query's own id as found, as where queries are documents. "
        "Default: where it holds the query's text.",
    ),
]
EngineName = Annotated[
    str, typer.Option(help="torch or onnx. Default: the saved or usual one of this machine.")
]
PrecisionChoice = Annotated[
    str,
    typer.Option(help="fp32, bf16, fp16, int16 or int8. Default: the fastest that this machine does well."),
]


def quiet_libraries() -> None:
    """Keep the libraries' own bars and notes off the terminal; errors still come through."""
    # Read when the library is imported, which a command that can do without it leaves out.
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    transformers = sys.modules.get("transformers")
    if transformers is not None:
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
    for library in ("sentence_transformers", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|sentence_transformers)\b.*")


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    json.dump(value, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")


def say(text: str, *, silent: bool) -> None:
    """Print a note on stderr, so that stdout stays for results."""
    if not silent:
        print(text, file=sys.stderr)


def pairs(text: str | None) -> dict[str, str]:
    """Read ``a=1,b=2`` into a dict.

    >>> pairs("dims=8,16,temperature=0.5")
    {'dims': '8,16', 'temperature': '0.5'}
    """
    from matryoshka2d.errors import UserError

    found: dict[str, str] = {}
    last = ""
    for piece in text.split(",") if text else []:
        name, equals, value = piece.partition("=")
        if equals:
            last = name.strip()
            found[last] = value.strip()
        elif last:
            # A comma inside a value, as in dims=8,16.
            found[last] = f"{found[last]},{piece.strip()}"
        else:
            raise UserError(f"'{text}' is not a list of options: expected NAME=VALUE,NAME=VALUE")
    return found
