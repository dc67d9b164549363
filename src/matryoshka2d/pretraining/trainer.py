"""transformers' trainer around the objective: losses of every size in the logs, whole checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model

from matryoshka2d.training.whole_checkpoints import WholeCheckpoints

_WEIGHTS = "pretraining.safetensors"


class PretrainingTrainer(WholeCheckpoints):
    """A trainer for `MaskedAutoencoding`; a checkpoint holds encoder, head and decoder."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and beside the loss of the step those of every size since the last log."""
        by_size = self.model.by_size.take() if "loss" in logs else {}
        super().log({**logs, **by_size}, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write all weights, those that head and encoder share once."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / _WEIGHTS))

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        """Read what `_save` wrote."""
        load_model(self.model, Path(checkpoint_path) / _WEIGHTS)
