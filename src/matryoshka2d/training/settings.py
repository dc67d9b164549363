"""Dropout and attention of the model while it is trained; the saved model keeps its own settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from matryoshka2d.encoder import ElasticEncoder

_SHORT = 256


def set_dropout(model: nn.Module, dropout: float) -> Callable[[], None]:
    """Set every dropout probability of a transformers model, those that attention reads included.

    Returns
    -------
    callable
        Puts the former probabilities back.
    """
    former = [
        (module, name, getattr(module, name))
        for module in model.modules()
        for name in (("p",) if isinstance(module, nn.Dropout) else ("attention_dropout", "dropout_prob"))
        if isinstance(getattr(module, name, None), (int, float))
    ]
    for module, name, _ in former:
        setattr(module, name, dropout)

    def put_back() -> None:
        for module, name, value in former:
            setattr(module, name, value)

    return put_back


@contextlib.contextmanager
def training_settings(
    encoder: ElasticEncoder, max_length: int, on_cpu: bool, dropout: float | None = None
) -> Iterator[None]:
    """Use the given text length and dropout, and on a CPU the attention whose backward is fast.

    torch's fused attention has no fast backward on CPUs; for up to 256 tokens the plain form is faster.
    """
    length, config = encoder.max_seq_length, encoder.base.config
    set_attention: Any = encoder.base.set_attn_implementation
    attention: Any = getattr(config, "_attn_implementation", None)
    put_dropout_back = None if dropout is None else set_dropout(encoder.base, dropout)
    encoder.max_seq_length = min(max_length, length or max_length)
    if on_cpu and attention == "sdpa" and encoder.max_seq_length <= _SHORT:
        set_attention("eager")
    try:
        yield
    finally:
        encoder.max_seq_length = length
        if put_dropout_back is not None:
            put_dropout_back()
        if attention == "sdpa":
            set_attention(attention)
