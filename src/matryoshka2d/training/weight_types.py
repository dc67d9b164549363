"""The type that weights are trained in, and the one that they came in."""

from __future__ import annotations

import torch
from torch import nn

from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.precision import Precision


def widen(encoder: ElasticEncoder, *, frozen: bool, precision: Precision) -> None:
    """Put what is trained into float32: half precision would round the small steps of an optimiser away.

    Weights that are frozen may stay as they came, if the run computes in half precision anyway.
    """
    if not frozen or precision.name == "fp32":
        cast_weights(encoder, torch.float32)
    elif encoder.heads is not None:
        cast_weights(encoder.heads, torch.float32)


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Put the weights into a type; buffers, such as the angles of rotary positions, stay exact."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
