"""Progress of a run: one bar with the loss beside it, and not a line more."""

from __future__ import annotations

from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback


class LossBar(ProgressCallback):  # type: ignore[misc, unused-ignore]
    """The trainer's bar, with the last loss and dev score behind it instead of a line for each."""

    shown = ("loss", "eval_dev_mean")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Put the newest figures behind the bar."""
        if self.training_bar is not None:
            latest = {name: f"{value:.4g}" for name, value in (logs or {}).items() if name in self.shown}
            self.training_bar.set_postfix(latest, refresh=False)


def close_bars(trainer: Trainer) -> None:
    """End the line of a bar that stopped half-way, so that what is said next has a line of its own."""
    for report in trainer.callback_handler.callbacks:
        for name in ("training_bar", "prediction_bar"):
            bar = getattr(report, name, None)
            if bar is not None:
                bar.close()


def show_progress(trainer: Trainer, quiet: bool) -> None:
    """Replace the trainer's own reports, which fill a terminal, by one bar, or by nothing."""
    reports: tuple[type[TrainerCallback], ...] = (PrinterCallback, ProgressCallback)
    for report in reports:
        trainer.remove_callback(report)
    if not quiet:
        trainer.add_callback(LossBar)
