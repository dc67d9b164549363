"""One sentence-embedding model, any depth, any width."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.errors import UserError
    from matryoshka2d.evaluation import Grid, read_sts, sts_grid
    from matryoshka2d.export.exporter import export_model
    from matryoshka2d.inference import Engine, open_engine
    from matryoshka2d.inference.mteb_encoder import mteb
    from matryoshka2d.inference.vectorizer import ElasticVectorizer
    from matryoshka2d.losses.elastic_loss import ElasticLoss
    from matryoshka2d.losses.objectives import make_objective
    from matryoshka2d.losses.strategies import make_strategy
    from matryoshka2d.planning import Budget, Plan, plan
    from matryoshka2d.search import open_index
    from matryoshka2d.size import Size, parse_sizes
    from matryoshka2d.training import FitOptions, RotateOptions, TrainingOptions, fit, rotate, train

__version__ = "0.1.0"

# Imported when first asked for: `import matryoshka2d` must not wait for torch.
_HOMES = {
    "Budget": "planning",
    "ElasticEncoder": "encoder.elastic",
    "ElasticLoss": "losses.elastic_loss",
    "ElasticVectorizer": "inference.vectorizer",
    "Engine": "inference",
    "FitOptions": "training",
    "Grid": "evaluation",
    "Plan": "planning",
    "RotateOptions": "training",
    "Size": "size",
    "TrainingOptions": "training",
    "UserError": "errors",
    "export_model": "export.exporter",
    "fit": "training",
    "make_objective": "losses.objectives",
    "make_strategy": "losses.strategies",
    "mteb": "inference.mteb_encoder",
    "open_engine": "inference",
    "open_index": "search",
    "parse_sizes": "size",
    "plan": "planning",
    "read_sts": "evaluation",
    "rotate": "training",
    "sts_grid": "evaluation",
    "train": "training",
}

__all__ = [
    "Budget",
    "ElasticEncoder",
    "ElasticLoss",
    "ElasticVectorizer",
    "Engine",
    "FitOptions",
    "Grid",
    "Plan",
    "RotateOptions",
    "Size",
    "TrainingOptions",
    "UserError",
    "export_model",
    "fit",
    "make_objective",
    "make_strategy",
    "mteb",
    "open_engine",
    "open_index",
    "parse_sizes",
    "plan",
    "read_sts",
    "rotate",
    "sts_grid",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'matryoshka2d' has no attribute '{name}'")
    return getattr(importlib.import_module(f"matryoshka2d.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
