"""A trainer's run that says in one line what a user can mend, and leaves nothing behind if it never began."""

from __future__ import annotations

from pathlib import Path

from matryoshka2d.errors import UserError
from matryoshka2d.files import says_no_room
from matryoshka2d.training import ranks
from matryoshka2d.training.memory import saying_what_lowers_memory
from matryoshka2d.training.progress import close_bars
from matryoshka2d.training.trackers import close_logs, drop_logs_of_nothing
from matryoshka2d.training.whole_checkpoints import WholeCheckpoints, last_complete_checkpoint


def run_guarded(trainer: WholeCheckpoints, run_folder: Path, checkpoint: str | None, advice: str) -> None:
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
        If memory or the disk runs out, or the run diverges.
    """
    # The trainer makes its folder at once; a mistake that shows at the first step leaves nothing behind.
    if ranks.is_first() and run_folder.is_dir() and not any(run_folder.iterdir()):
        run_folder.rmdir()
    try:
        with saying_what_lowers_memory(advice):
            trainer.train(resume_from_checkpoint=checkpoint)
        trainer.check_weights()
    except BaseException as error:
        close_bars(trainer)
        if isinstance(error, UserError) or not says_no_room(error):
            raise
        last = last_complete_checkpoint(run_folder)
        left = "nothing was left" if last is None else f"{last} is whole: make room, and --resume goes on"
        if ranks.is_first() and last is None:
            close_logs(trainer.callback_handler.callbacks)
            drop_logs_of_nothing(run_folder)
        raise UserError(
            f"cannot write {run_folder}: no room on the disk, or a limit on the size of files; {left}"
        ) from error
    finally:
        if ranks.is_first() and checkpoint is None and trainer.state.global_step == 0:
            close_logs(trainer.callback_handler.callbacks)
            drop_logs_of_nothing(run_folder)
