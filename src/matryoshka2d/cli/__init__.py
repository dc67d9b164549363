"""The command line: one thin file a command; no logic lives here."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    # Said before any library is imported: its bars and reports would bury ours.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import click

    from matryoshka2d.cli.app import app
    from matryoshka2d.errors import UserError

    try:
        result = app(standalone_mode=False)
    except UserError as error:
        _stop(str(error), 2)
    except click.ClickException as error:
        _stop(" ".join(error.format_message().split()), 2)
    except (KeyboardInterrupt, click.Abort):
        _stop("interrupted: nothing was left half-written", 130)
    except OSError as error:
        if error.errno is None:
            raise
        _stop(f"{error.strerror}: {error.filename or 'a file'}", 2)
    else:
        sys.exit(result if isinstance(result, int) else 0)


def _stop(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
