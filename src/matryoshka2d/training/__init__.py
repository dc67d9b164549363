"""Training: options, rates by depth, checkpoints, train(), distill(). fit() and rotate() train nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matryoshka2d.errors import needs
from matryoshka2d.lazy import lazy_names
from matryoshka2d.training import training_options

if TYPE_CHECKING:
    from matryoshka2d.training.checkpoints import WholeCheckpoints as WholeCheckpoints
    from matryoshka2d.training.checkpoints import last_complete_checkpoint as last_complete_checkpoint
    from matryoshka2d.training.checkpoints import seconds_before as seconds_before
    from matryoshka2d.training.distillation import distill as distill
    from matryoshka2d.training.finetuning import train as train
    from matryoshka2d.training.fitting import fit as fit
    from matryoshka2d.training.model_card import command_of as command_of
    from matryoshka2d.training.model_settings import cast_weights as cast_weights
    from matryoshka2d.training.model_settings import max_length_of as max_length_of
    from matryoshka2d.training.model_settings import set_dropout as set_dropout
    from matryoshka2d.training.model_settings import training_settings as training_settings
    from matryoshka2d.training.model_settings import widen as widen
    from matryoshka2d.training.rotation import Search as Search
    from matryoshka2d.training.rotation import rotate as rotate
    from matryoshka2d.training.rotation import rotate_by as rotate_by
    from matryoshka2d.training.run_logs import keep_logs as keep_logs
    from matryoshka2d.training.run_logs import run_guarded as run_guarded
    from matryoshka2d.training.run_logs import show_progress as show_progress
    from matryoshka2d.training.run_logs import trackers as trackers
    from matryoshka2d.training.trainer import FullBatchSampler as FullBatchSampler
    from matryoshka2d.training.training_options import DistillOptions as DistillOptions
    from matryoshka2d.training.training_options import FitOptions as FitOptions
    from matryoshka2d.training.training_options import RotateOptions as RotateOptions
    from matryoshka2d.training.training_options import TrainingOptions as TrainingOptions
    from matryoshka2d.training.training_options import preset_of as preset_of
    from matryoshka2d.training.training_options import run_folder_of as run_folder_of
    from matryoshka2d.training.unfinished import begin_anew as begin_anew
    from matryoshka2d.training.unfinished import check_nothing_unfinished as check_nothing_unfinished
else:
    _find, __all__ = lazy_names(__name__)

    def __getattr__(name: str) -> Any:
        # The command line reads the options for its help, which must not wait for torch.
        if name in __all__ and name not in vars(training_options):
            needs("train", "accelerate", "datasets")
        return _find(name)
