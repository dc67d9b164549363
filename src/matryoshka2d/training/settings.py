"""Dropout and attention of the model while it is trained; the saved model keeps its own settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.errors import UserError

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


def check_checkpointing(encoder: ElasticEncoder) -> None:
    """Raise a `UserError` if the model's layers cannot be computed again in the backward pass."""
    if not getattr(encoder.base, "supports_gradient_checkpointing", False):
        kind = getattr(encoder.base.config, "model_type", "")
        raise UserError(
            f"models of the architecture '{kind}' have no gradient checkpointing: leave it out, and lower "
            "--batch-size or --max-length where memory is short"
        )


def set_checkpointing(base: nn.Module, on: bool) -> None:
    """Let every layer forget its activations and compute them again in the backward pass, or not."""
    # transformers before 5.23 knows it by its older name.
    name = "activation" if hasattr(base, "activation_checkpointing_enable") else "gradient"
    switch: Any = getattr(base, f"{name}_checkpointing_{'enable' if on else 'disable'}")
    switch()


@contextlib.contextmanager
def max_length_of(encoder: ElasticEncoder, max_length: int) -> Iterator[None]:
    """Cut texts at so many tokens, or where the model itself does."""
    length = encoder.max_seq_length
    encoder.max_seq_length = min(max_length, length or max_length)
    try:
        yield
    finally:
        encoder.max_seq_length = length


@contextlib.contextmanager
def training_settings(
    encoder: ElasticEncoder,
    max_length: int,
    on_cpu: bool,
    dropout: float | None = None,
    checkpointing: bool = False,
) -> Iterator[None]:
    """Use the given length, dropout and checkpointing, and on a CPU the attention whose backward is fast.

    torch's fused attention has no fast backward on CPUs; for up to 256 tokens the plain form is faster.
    """
    set_attention: Any = encoder.base.set_attn_implementation
    attention: Any = getattr(encoder.base.config, "_attn_implementation", None)
    put_dropout_back = None if dropout is None else set_dropout(encoder.base, dropout)
    with max_length_of(encoder, max_length):
        if on_cpu and attention == "sdpa" and (encoder.max_seq_length or max_length) <= _SHORT:
            set_attention("eager")
        if checkpointing:
            set_checkpointing(encoder.base, True)
        try:
            yield
        finally:
            if checkpointing:
                set_checkpointing(encoder.base, False)
            if put_dropout_back is not None:
                put_dropout_back()
            if attention == "sdpa":
                set_attention(attention)
