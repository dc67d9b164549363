"""A model by name, or one that is loaded already, on the device where an engine wants it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.size import Size


def load(
    model: str | Path | ElasticEncoder,
    device: str | None = None,
    size: str | Size | None = None,
    pooling: str | None = None,
    *,
    engine: str = "torch",
) -> Loaded:
    """Return the model on the device; a loaded encoder itself if it is there already, else a copy.

    Parameters
    ----------
    model, device, size, pooling
        As in `open_engine`.
    engine
        The engine that asks; all but torch run on the CPU alone.

    Raises
    ------
    UserError
        If the model cannot be loaded so.
    """
    from matryoshka2d.default_model import resolve_model

    if engine != "torch":
        if device not in (None, "cpu"):
            raise UserError(
                f"the {engine} engine runs on the cpu: leave out the device '{device}', or use torch"
            )
        device = "cpu"
    if not isinstance(model, ElasticEncoder):
        encoder = ElasticEncoder(resolve_model(str(model)), device=device, size=size, pooling=pooling)
        return Loaded(encoder, ours=True)
    if size is not None or pooling is not None:
        raise UserError(
            "a loaded encoder has its size and its pooling: give the model's name, or leave them out"
        )
    if device is None or torch.device(device) == model.device:
        return Loaded(model, ours=False)
    encoder = copy.deepcopy(model)
    encoder.to(device)
    return Loaded(encoder, ours=True)


class Loaded:
    """An encoder, and whether it may be changed: one that a caller gave may not."""

    def __init__(self, encoder: ElasticEncoder, ours: bool) -> None:
        self.encoder = encoder
        self.ours = ours
