"""Training: options, rates by depth, checkpoints, train(), distill(). fit() and rotate() train nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from matryoshka2d.errors import needs
from matryoshka2d.training.training_options import (
    DistillOptions,
    FitOptions,
    RotateOptions,
    TrainingOptions,
    preset_of,
    run_folder_of,
)

if TYPE_CHECKING:
    from matryoshka2d.training.checkpoints import WholeCheckpoints, last_complete_checkpoint, seconds_before
    from matryoshka2d.training.distillation import distill
    from matryoshka2d.training.finetuning import train
    from matryoshka2d.training.fitting import fit
    from matryoshka2d.training.model_card import command_of
    from matryoshka2d.training.model_settings import (
        cast_weights,
        max_length_of,
        set_dropout,
        training_settings,
        widen,
    )
    from matryoshka2d.training.rotation import Search, rotate, rotate_by
    from matryoshka2d.training.run_logs import keep_logs, run_guarded, show_progress, trackers
    from matryoshka2d.training.trainer import FullBatchSampler
    from matryoshka2d.training.unfinished import begin_anew, check_nothing_unfinished

_HOMES = {
    "checkpoints": (
        "WholeCheckpoints",
        "last_complete_checkpoint",
        "seconds_before",
    ),
    "distillation": ("distill",),
    "finetuning": ("train",),
    "fitting": ("fit",),
    "model_card": ("command_of",),
    "model_settings": (
        "cast_weights",
        "max_length_of",
        "set_dropout",
        "training_settings",
        "widen",
    ),
    "rotation": (
        "Search",
        "rotate",
        "rotate_by",
    ),
    "run_logs": (
        "keep_logs",
        "run_guarded",
        "show_progress",
        "trackers",
    ),
    "trainer": ("FullBatchSampler",),
    "unfinished": ("begin_anew", "check_nothing_unfinished"),
}

__all__ = [
    "DistillOptions",
    "FitOptions",
    "FullBatchSampler",
    "RotateOptions",
    "Search",
    "TrainingOptions",
    "WholeCheckpoints",
    "begin_anew",
    "cast_weights",
    "check_nothing_unfinished",
    "command_of",
    "distill",
    "fit",
    "keep_logs",
    "last_complete_checkpoint",
    "max_length_of",
    "preset_of",
    "rotate",
    "rotate_by",
    "run_folder_of",
    "run_guarded",
    "seconds_before",
    "set_dropout",
    "show_progress",
    "trackers",
    "train",
    "training_settings",
    "widen",
]


def __getattr__(name: str) -> Any:
    # The command line reads the options for its help, which must not wait for torch.
    for module, names in _HOMES.items():
        if name in names:
            needs("train", "accelerate", "datasets")
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
