"""A second backbone: some layers of a model, taught by the whole model before anything else is trained."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sentence_transformers import SentenceTransformer

from matryoshka2d.encoder import architectures
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.loading import resolve_model
from matryoshka2d.errors import UserError
from matryoshka2d.files import staged_folder
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d_reproduction.plan import Backbone
    from matryoshka2d_reproduction.workshop import Workshop


def pruned_backbone(shop: Workshop, backbone: Backbone, output: Path) -> None:
    """Write a backbone that keeps some layers of its model, distilled from the whole if the plan says so."""
    from matryoshka2d.training import TrainingOptions, train

    whole = ElasticEncoder(resolve_model(backbone.model), pooling=backbone.pooling, device="cpu")
    pruned = keep_layers(whole, backbone.layers)
    if not backbone.distil:
        with staged_folder(output, overwrite=True) as folder:
            pruned.save(str(folder), create_model_card=False)
        return
    options = dict(backbone.distil)
    data = shop.plan.data[str(options.pop("data"))]
    start = output.with_name(f"{output.name}.pruned")
    with staged_folder(start, overwrite=True) as folder:
        pruned.save(str(folder), create_model_card=False)
    try:
        values = {
            "strategy": "full",
            "objective": "distillation",
            "teacher": resolve_model(backbone.model),
            "checkpoints": False,
            **options,
            "model": str(start),
            "data": shop.files(data),
            "columns": dict(data.columns),
            "limit": options.get("limit", data.limit),
            "output": str(output),
            "overwrite": True,
        }
        train(TrainingOptions.from_mapping(values, "backbone"), quiet=True)
    finally:
        shutil.rmtree(start, ignore_errors=True)


def keep_layers(whole: ElasticEncoder, layers: Sequence[int]) -> SentenceTransformer:
    """Return a plain model with some layers of another, in their order.

    Parameters
    ----------
    whole
        The model.
    layers
        Which layers, counted from 1, ascending.

    Raises
    ------
    UserError
        If a layer does not exist, or they are not ascending.

    Examples
    --------
    >>> from matryoshka2d.encoder.loading import default_model_path
    >>> whole = ElasticEncoder(default_model_path(), device="cpu")
    >>> len(keep_layers(whole, [1, 3, 6])[0].model.encoder.layer)
    3
    """
    if list(layers) != sorted(set(layers)) or not layers or layers[0] < 1 or layers[-1] > whole.depth:
        raise UserError(f"layers {list(layers)}: expected ascending numbers from 1 to {whole.depth}")
    pruned = whole.truncate(Size(len(layers), whole.width))
    sources = architectures.layers_of(whole.base)
    for target, number in zip(architectures.layers_of(pruned[0].model), layers, strict=True):
        target.load_state_dict(sources[number - 1].state_dict())
    return pruned
