"""One loss over every size of one pass: an objective, a strategy, and how a step spares memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matryoshka2d.lazy import lazy_names

if TYPE_CHECKING:
    from matryoshka2d.losses.elastic_loss import ElasticLoss as ElasticLoss
    from matryoshka2d.losses.loss_meter import SizeLosses as SizeLosses
else:
    # Objectives and strategies are listed where torch is not needed.
    __getattr__, __all__ = lazy_names(__name__)
