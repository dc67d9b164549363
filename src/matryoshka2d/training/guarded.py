"""A trainer's run that says in one line what a user can mend, and leaves nothing behind if it never began."""

from __future__ import annotations

from pathlib import Path

from transformers import Trainer

from matryoshka2d.training import ranks
from matryoshka2d.training.memory import saying_what_lowers_memory
from matryoshka2d.training.trackers import close_logs, drop_logs_of_nothing


def run_guarded(trainer: Trainer, run_folder: Path, checkpoint: str | None, advice: str) -> None:
    """Train, from a checkpoint if there is one.

    Parameters
    ----------
    trainer
        The trainer, ready to run.
    run_folder
        Where its checkpoints and logs go.
    checkpoint
        The checkpoint to go on from, or None to begin.
    advice
        What to say when memory runs out: what filled it and what lowers it.

    Raises
    ------
    UserError
        If memory runs out.
    """
    # The trainer makes its folder at once; a mistake that shows at the first step leaves nothing behind.
    if ranks.is_first() and run_folder.is_dir() and not any(run_folder.iterdir()):
        run_folder.rmdir()
    try:
        with saying_what_lowers_memory(advice):
            trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        if ranks.is_first() and checkpoint is None and trainer.state.global_step == 0:
            close_logs(trainer.callback_handler.callbacks)
            drop_logs_of_nothing(run_folder)
