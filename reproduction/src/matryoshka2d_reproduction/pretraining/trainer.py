"""transformers' trainer around the objective: losses of every size in the logs, exact checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from transformers import TrainerCallback, TrainerControl, TrainerState

from matryoshka2d.training import WholeCheckpoints
from matryoshka2d_reproduction.pretraining.masking import TwoMaskedCopies
from matryoshka2d_reproduction.pretraining.order import SimilarLengths

_WEIGHTS = "pretraining.safetensors"


class PretrainingTrainer(WholeCheckpoints):
    """A trainer for `MaskedAutoencoding`; a checkpoint holds encoder, head and decoder.

    Parameters
    ----------
    order
        The order of the texts.
    **given
        What transformers' trainer takes.
    """

    def __init__(self, order: SimilarLengths, **given: Any) -> None:
        super().__init__(**given)
        self.order = order

    def _get_train_sampler(self, train_dataset: Any = None) -> SimilarLengths:
        return self.order

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


class TrainingPosition(TrainerCallback):
    """Tell order and masks which epoch and batch come next: a resumed run begins in the middle of both.

    Parameters
    ----------
    order, collator
        What is told.
    accumulation
        Batches a step.
    """

    def __init__(self, order: SimilarLengths, collator: TwoMaskedCopies, accumulation: int) -> None:
        self.order = order
        self.collator = collator
        self.accumulation = accumulation

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the epoch and the number of the batch that is fetched next."""
        self.order.epoch = int(state.epoch + 1e-6)
        self.collator.batch = state.global_step * self.accumulation
