"""Training: options, learning rates by depth, whole checkpoints, train(); and fit(), which trains nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matryoshka2d.training.fit_options import FitOptions
from matryoshka2d.training.options import TrainingOptions

if TYPE_CHECKING:
    from matryoshka2d.training.fitting import fit
    from matryoshka2d.training.run import train

__all__ = ["FitOptions", "TrainingOptions", "fit", "train"]


def __getattr__(name: str) -> Any:
    # The command line reads the options for its help, which must not wait for torch.
    if name == "train":
        from matryoshka2d.training.run import train

        return train
    if name == "fit":
        from matryoshka2d.training.fitting import fit

        return fit
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
