"""One sentence-embedding model, any depth, any width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matryoshka2d.lazy import lazy_names

if TYPE_CHECKING:
    __all__: list[str]

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
else:
    # `import matryoshka2d` must not wait for torch.
    __getattr__, __all__ = lazy_names(__name__)

    def __dir__() -> list[str]:
        return [*__all__, "__version__"]


__version__ = "0.1.0"
