"""Checkpoints that are either whole or not there."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from matryoshka2d.files import grant_what_the_umask_says
from matryoshka2d.training import distributed as ranks

_STAGING = "unfinished"


class WholeCheckpoints(Trainer):
    """A trainer whose checkpoints are staged under another name and renamed when complete.

    Of several processes each saves its random state, and the first one everything else.
    """

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
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
        finally:
            self.args.output_dir = str(run)
            self.args.save_total_limit = limit
        ranks.wait()
        with ranks.first_alone() as writes:
            if writes:
                shutil.rmtree(run / name, ignore_errors=True)
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
