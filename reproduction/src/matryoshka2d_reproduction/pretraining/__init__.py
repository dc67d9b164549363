"""Pretraining on plain text, before any fine-tuning: every listed size learns to hold its sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matryoshka2d_reproduction.pretraining.options import PretrainingOptions

if TYPE_CHECKING:
    from matryoshka2d_reproduction.pretraining.pretrainer import pretrain

__all__ = ["PretrainingOptions", "pretrain"]


def __getattr__(name: str) -> Any:
    # The command line reads the options for its help, which must not wait for torch.
    if name == "pretrain":
        from matryoshka2d_reproduction.pretraining.pretrainer import pretrain

        return pretrain
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
