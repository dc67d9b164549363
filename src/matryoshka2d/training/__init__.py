"""Training: options, learning rates by depth, whole checkpoints, and train() itself."""

from __future__ import annotations

from matryoshka2d.training.options import TrainingOptions
from matryoshka2d.training.run import train

__all__ = ["TrainingOptions", "train"]
