"""One sentence-embedding model, any depth, any width."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder as ElasticEncoder
    from matryoshka2d.errors import UserError as UserError
    from matryoshka2d.evaluation import Evaluation as Evaluation
    from matryoshka2d.evaluation import Grid as Grid
    from matryoshka2d.evaluation import evaluate as evaluate
    from matryoshka2d.export.exporter import export_model as export_model
    from matryoshka2d.inference import encode as encode
    from matryoshka2d.inference import open_engine as open_engine
    from matryoshka2d.inference.mteb_encoder import mteb as mteb
    from matryoshka2d.inference.vectorizer import ElasticVectorizer as ElasticVectorizer
    from matryoshka2d.losses.elastic_loss import ElasticLoss as ElasticLoss
    from matryoshka2d.planning import Budget as Budget
    from matryoshka2d.planning import Plan as Plan
    from matryoshka2d.planning import plan as plan
    from matryoshka2d.search import open_index as open_index
    from matryoshka2d.size import Size as Size
    from matryoshka2d.training import DistillOptions as DistillOptions
    from matryoshka2d.training import FitOptions as FitOptions
    from matryoshka2d.training import RotateOptions as RotateOptions
    from matryoshka2d.training import TrainingOptions as TrainingOptions
    from matryoshka2d.training import distill as distill
    from matryoshka2d.training import fit as fit
    from matryoshka2d.training import rotate as rotate
    from matryoshka2d.training import train as train

__version__ = "0.1.0"

# Imported when first asked for: `import matryoshka2d` must not wait for torch.
_HOMES = {
    "Budget": "planning",
    "DistillOptions": "training",
    "ElasticEncoder": "encoder.elastic",
    "ElasticLoss": "losses.elastic_loss",
    "ElasticVectorizer": "inference.vectorizer",
    "Evaluation": "evaluation",
    "FitOptions": "training",
    "Grid": "evaluation",
    "Plan": "planning",
    "RotateOptions": "training",
    "Size": "size",
    "TrainingOptions": "training",
    "UserError": "errors",
    "distill": "training",
    "encode": "inference",
    "evaluate": "evaluation",
    "export_model": "export.exporter",
    "fit": "training",
    "mteb": "inference.mteb_encoder",
    "open_engine": "inference",
    "open_index": "search",
    "plan": "planning",
    "rotate": "training",
    "train": "training",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - the names are written once


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'matryoshka2d' has no attribute '{name}'")
    return getattr(importlib.import_module(f"matryoshka2d.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
