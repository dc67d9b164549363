"""One loss over every size of one pass: an objective, a strategy, and how a step spares memory."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matryoshka2d.losses.elastic_loss import ElasticLoss
    from matryoshka2d.losses.loss_meter import SizeLosses

_HOMES = {
    "elastic_loss": ("ElasticLoss",),
    "loss_meter": ("SizeLosses",),
}

__all__ = [
    "ElasticLoss",
    "SizeLosses",
]


def __getattr__(name: str) -> Any:
    # Objectives and strategies are listed where torch is not needed.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
