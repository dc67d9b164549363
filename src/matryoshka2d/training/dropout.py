"""Dropout and attention of the model while it is trained; the saved model keeps its own settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from matryoshka2d.encoder import ElasticEncoder

_SHORT = 256


def set_dropout(model: nn.Module, dropout: float) -> None:
    """Set every dropout probability of a transformers model, those that attention reads included."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        for name in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, dropout)


@contextlib.contextmanager
def training_settings(encoder: ElasticEncoder, max_length: int, on_cpu: bool) -> Iterator[None]:
    """Use the given text length, and on a CPU the attention whose backward is fast for short texts.

    torch's fused attention has no fast backward on CPUs; for up to 256 tokens the plain form is faster.
    """
    length, config = encoder.max_seq_length, encoder.base.config
    set_attention: Any = encoder.base.set_attn_implementation
    attention: Any = getattr(config, "_attn_implementation", None)
    encoder.max_seq_length = min(max_length, length or max_length)
    if on_cpu and attention == "sdpa" and encoder.max_seq_length <= _SHORT:
        set_attention("eager")
    try:
        yield
    finally:
        encoder.max_seq_length = length
        if attention == "sdpa":
            set_attention(attention)
