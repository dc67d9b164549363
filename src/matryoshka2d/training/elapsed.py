"""How long a run has trained, over all its legs: a checkpoint carries the seconds that led to it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from matryoshka2d.training.whole_checkpoints import last_complete_checkpoint


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
