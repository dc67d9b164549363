"""Checkpoints that are either whole or not there."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from matryoshka2d.encoder.finite import weight_not_finite
from matryoshka2d.errors import UserError
from matryoshka2d.files import grant_what_the_umask_says, remove_folder, says_no_room
from matryoshka2d.training import distributed as ranks

_STAGING = "unfinished"


class WholeCheckpoints(Trainer):
    """A trainer whose checkpoints are staged under another name and renamed when complete.

    Of several processes each saves its random state, and the first one everything else.

    What is saved is finite: a run whose loss or weights are not stops, and its last checkpoint is a good one.
    """

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Train a step; say in one line if its loss is not finite."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            name = None if self.state.global_step else weight_not_finite(self.model)
            raise UserError(
                self._diverged(f"the loss of step {self.state.global_step + 1} of {self.state.max_steps}")
                if name is None
                else f"the model to start from has weights that hold NaN or infinity ({name}): choose another"
            )
        return loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule; a run of one step has no warm-up, whose first step has the rate 0."""
        chosen = self.args.warmup_steps
        if num_training_steps == 1:
            self.args.warmup_steps = 0
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        finally:
            self.args.warmup_steps = chosen

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Judge the model, if its weights are finite."""
        self.check_weights()
        found: dict[str, float] = super().evaluate(*args, **kwargs)
        return found

    def check_weights(self) -> None:
        """Raise a `UserError` if a weight is not finite."""
        if weight_not_finite(self.model) is not None:
            raise UserError(self._diverged(f"a weight after step {self.state.global_step}"))

    def _diverged(self, what: str) -> str:
        last = last_complete_checkpoint(Path(self.args.output_dir))
        kept = "there is no checkpoint yet" if last is None else f"the last good checkpoint is {last}"
        return (
            f"{what} is NaN or infinite: the run diverged; lower --learning-rate (it was "
            f"{self.args.learning_rate:g}) and begin anew with --overwrite; {kept}"
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_weights()
        run = Path(self.args.output_dir)
        staging = run / _STAGING
        with ranks.first_alone() as writes:
            if writes:
                shutil.rmtree(staging, ignore_errors=True)
        name = f"checkpoint-{self.state.global_step}"
        # The state is written together with the checkpoint: it must name the best one by its final path.
        self.state.best_model_checkpoint = self._best(run)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self.args.output_dir = str(staging)
        try:
            super()._save_checkpoint(model, trial)
            self.state.best_model_checkpoint = self._best(run)
            if ranks.is_first():
                self.state.save_to_json(str(staging / name / "trainer_state.json"))
        except BaseException as error:
            if ranks.is_first() and (says_no_room(error) or isinstance(error, KeyboardInterrupt)):
                shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            self.args.output_dir = str(run)
            self.args.save_total_limit = limit
        ranks.wait()
        with ranks.first_alone() as writes:
            if writes:
                remove_folder(run / name)
                grant_what_the_umask_says(staging / name)
                (staging / name).rename(run / name)
                rotate_checkpoints(str(run), save_total_limit=limit, best_model_checkpoint=self._best(run))

    def _best(self, run: Path) -> str | None:
        step = self.state.best_global_step
        return str(run / f"checkpoint-{step}") if step else None


def last_complete_checkpoint(run: Path) -> str | None:
    """Return the newest complete checkpoint of a run, or None; unfinished ones are not looked at."""
    return get_last_checkpoint(str(run)) if run.is_dir() else None


class Elapsed(TrainerCallback, ExportableState):
    """Counts seconds from when it is made, and leaves them in every checkpoint.

    Parameters
    ----------
    before
        Seconds of the legs before this one.
    """

    def __init__(self, before: float = 0.0) -> None:
        self.before = before
        self._started = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the seconds up to now."""
        return {"args": {"before": self.before + time.perf_counter() - self._started}, "attributes": {}}


def seconds_before(run_folder: Path) -> float:
    """Return the seconds that led to the newest complete checkpoint of a run; 0.0 if there is none.

    >>> seconds_before(Path("no-such-run"))
    0.0
    """
    checkpoint = last_complete_checkpoint(run_folder)
    if checkpoint is None:
        return 0.0
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    kept = state["stateful_callbacks"].get(Elapsed.__name__, {"args": {"before": 0.0}})
    return float(kept["args"]["before"])
