"""What a killed run left beside its output, which calling the same run again must not destroy."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from matryoshka2d.errors import UserError
from matryoshka2d.files import remove_folder

TOWER_CHECKPOINT = "tower.pt"
"""The checkpoint of a distillation, in its run folder."""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def check_nothing_unfinished(run_folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise a `UserError` if a run left work behind, and the user did not say what to do with it."""
    left = None if resume or overwrite else work_left(run_folder)
    if left is not None:
        raise UserError(
            f"found {left} of an unfinished run in {run_folder}: --resume goes on, --overwrite begins anew"
        )


def work_left(run_folder: Path) -> str | None:
    """Return in words what a run that was killed left to go on with, or None.

    >>> work_left(Path("no-such-run")) is None
    True
    """
    steps = _steps(run_folder)
    if steps:
        return f"checkpoints (the last after step {max(steps)})"
    if (run_folder / TOWER_CHECKPOINT).is_file():
        return "a checkpoint"
    # Its teacher comes first, and leaves checkpoints of its own until it is done.
    if (run_folder / "teacher").is_dir():
        return "the tuned teacher"
    if _steps(run_folder / "teacher.checkpoints"):
        return "checkpoints of the tuned teacher"
    return None


def begin_anew(run_folder: Path, *, quiet: bool) -> None:
    """Remove what an earlier run left; a note says so."""
    if not run_folder.is_dir():
        return
    left = work_left(run_folder) or "what a run left that was stopped before its first checkpoint"
    remove_folder(run_folder)
    if not quiet:
        print(f"note: removed {left}, in {run_folder}, to begin anew", file=sys.stderr)


def _steps(folder: Path) -> list[int]:
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    return [int(found[1]) for found in map(_CHECKPOINT.fullmatch, names) if found]
