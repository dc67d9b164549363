"""Training: options, rates by depth, whole checkpoints, train(). fit() and rotate() train nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matryoshka2d.training.options import TrainingOptions
from matryoshka2d.training.text_options import FitOptions, RotateOptions

if TYPE_CHECKING:
    from matryoshka2d.training.fitting import fit
    from matryoshka2d.training.rotating import rotate
    from matryoshka2d.training.run import train

__all__ = ["FitOptions", "RotateOptions", "TrainingOptions", "fit", "rotate", "train"]


def __getattr__(name: str) -> Any:
    # The command line reads the options for its help, which must not wait for torch.
    if name == "train":
        from matryoshka2d.training.run import train

        return train
    if name == "fit":
        from matryoshka2d.training.fitting import fit

        return fit
    if name == "rotate":
        from matryoshka2d.training.rotating import rotate

        return rotate
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
