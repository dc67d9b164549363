"""The command line: one thin file a command; no logic lives here."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from matryoshka2d.lazy import lazy_names

if TYPE_CHECKING:
    import typer

    from matryoshka2d.cli.common import Json as Json
    from matryoshka2d.cli.common import Quiet as Quiet
    from matryoshka2d.cli.common import print_json as print_json
    from matryoshka2d.cli.common import quiet_libraries as quiet_libraries
    from matryoshka2d.cli.common import say as say
    from matryoshka2d.cli.option_flags import command_of_choices as command_of_choices
else:
    # Typer is imported after the settings that `main` makes.
    __getattr__, _lazy = lazy_names(__name__)
    __all__ = [*_lazy, "main", "run_app"]  # noqa: PLE0604 - strings, unpacked

_INTERRUPTED = 130
_FIRST_SPEAKS = 10.0
"""Seconds in which the first of several processes says what is wrong."""


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    from matryoshka2d.errors import UserError, needs

    try:
        needs("cli", "rich", "typer")
    except UserError as error:
        _stop(str(error), 2)
    from matryoshka2d.cli.app import app

    run_app(app, "matryoshka2d")


def run_app(app: typer.Typer, name: str) -> None:
    """Run an application of typer by the name of its command, and say each mistake in one line."""
    # Said before any library is imported: its bars and reports would bury ours.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import typer

    from matryoshka2d.errors import UserError

    _show_notes(quiet=not {"-q", "--quiet"}.isdisjoint(sys.argv))
    # Newer versions of typer carry a click of their own: its class is reached through what typer exports.
    wrong_usage: type[Exception] = typer.BadParameter.__mro__[1]
    try:
        code = app(prog_name=name, standalone_mode=False)
    except UserError as error:
        _stop(str(error), 2)
    except wrong_usage as error:
        _stop(_one_line(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except OSError as error:
        if error.errno is None:
            raise
        _stop(f"{error.strerror}: {error.filename or 'a file'}", 2)
    if code == _INTERRUPTED:
        _stop("interrupted: nothing was left half-written", code)
    sys.exit(code if isinstance(code, int) else 0)


def _show_notes(*, quiet: bool) -> None:
    """Print on stderr what the package notes while it works."""
    handler = logging.NullHandler() if quiet else logging.StreamHandler()
    logging.getLogger("matryoshka2d").handlers[:] = [handler]


def _one_line(error: Exception) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return " ".join(message.split())


def _stop(message: str, code: int) -> None:
    print(f"error: {_as_one_of_several(message)}", file=sys.stderr)
    sys.exit(code)


def _as_one_of_several(message: str) -> str:
    """Let the first of several processes speak for all, which meet the same mistakes.

    Its launcher then ends the others. One that is still there after a while has a mistake of its own.
    """
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        return message
    import time

    try:
        time.sleep(_FIRST_SPEAKS)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    return f"process {rank}: {message}"
