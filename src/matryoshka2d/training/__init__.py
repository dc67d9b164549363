"""Training: options, rates by depth, whole checkpoints, train(). fit() and rotate() train nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matryoshka2d.training.training_options import FitOptions, RotateOptions, TrainingOptions

if TYPE_CHECKING:
    from matryoshka2d.training.finetuning import train
    from matryoshka2d.training.fitting import fit
    from matryoshka2d.training.rotation import rotate

__all__ = ["FitOptions", "RotateOptions", "TrainingOptions", "fit", "rotate", "train"]


def __getattr__(name: str) -> Any:
    # The command line reads the options for its help, which must not wait for torch.
    if name == "train":
        from matryoshka2d.training.finetuning import train

        return train
    if name == "fit":
        from matryoshka2d.training.fitting import fit

        return fit
    if name == "rotate":
        from matryoshka2d.training.rotation import rotate

        return rotate
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
