"""Where a run is logged to: TensorBoard unless told otherwise, through the trainer's own integrations."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.training import distributed as ranks
from matryoshka2d.training.training_options import saying_what_lowers_memory

LOGS = "runs"
"""Folder of TensorBoard's files: in the run folder while training, in the model's afterwards."""

_NAMES_OF_ALL_OR_NOTHING = ("none", "all")


def trackers(report_to: str) -> list[str]:
    """Return the trackers that an option names, as the trainer takes them.

    Parameters
    ----------
    report_to
        Names with commas between them, ``none``, or ``all`` for every tracker that is installed.

    Raises
    ------
    UserError
        If a tracker is not known or not installed.

    Examples
    --------
    >>> trackers("tensorboard"), trackers("none")
    (['tensorboard'], [])
    """
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    names = [name.strip() for name in report_to.split(",") if name.strip()]
    known = sorted(INTEGRATION_TO_CALLBACK)
    installed = get_available_reporting_integrations()
    if not names or names == ["none"]:
        return []
    if names == ["all"]:
        return list(installed)
    for name in names:
        if name not in known:
            choices = [*_NAMES_OF_ALL_OR_NOTHING, *known]
            raise UserError(
                f"report_to is '{name}': expected one of {', '.join(choices)}.{did_you_mean(name, choices)}"
            )
        if name not in installed:
            raise UserError(f"report_to is '{name}', which is not installed: pip install it, or choose none")
    return names


def keep_logs(run_folder: Path, model_folder: Path) -> None:
    """Put the logs of a finished run into the folder of its model, where hubs and TensorBoard find them."""
    if (run_folder / LOGS).is_dir():
        shutil.copytree(run_folder / LOGS, model_folder / LOGS, dirs_exist_ok=True)


def close_logs(callbacks: Iterable[object]) -> None:
    """Let TensorBoard write what it has and stop: its thread would miss a folder that is gone."""
    from transformers.integrations import TensorBoardCallback

    for callback in callbacks:
        writer = callback.tb_writer if isinstance(callback, TensorBoardCallback) else None
        if writer is not None:
            writer.close()


def drop_logs_of_nothing(run_folder: Path) -> None:
    """Remove the logs of a run that stopped before its first step, and its folder if that is all."""
    shutil.rmtree(run_folder / LOGS, ignore_errors=True)
    if run_folder.is_dir() and not any(run_folder.iterdir()):
        run_folder.rmdir()


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


class LossBar(ProgressCallback):  # type: ignore[misc, unused-ignore]
    """The trainer's bar, with the last loss and dev score behind it instead of a line for each."""

    shown = ("loss", "eval_dev_mean")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Put the newest figures behind the bar."""
        if self.training_bar is not None:
            latest = {name: f"{value:.4g}" for name, value in (logs or {}).items() if name in self.shown}
            self.training_bar.set_postfix(latest, refresh=False)


def show_progress(trainer: Trainer, quiet: bool) -> None:
    """Replace the trainer's own reports, which fill a terminal, by one bar, or by nothing."""
    reports: tuple[type[TrainerCallback], ...] = (PrinterCallback, ProgressCallback)
    for report in reports:
        trainer.remove_callback(report)
    if not quiet:
        trainer.add_callback(LossBar)
