"""Dropout and attention of the model while it is trained; the saved model keeps its own settings."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from matryoshka2d.encoder import architectures
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.precision import Precision
from matryoshka2d.errors import UserError
from matryoshka2d.losses.strategies import Shape, Strategy
from matryoshka2d.size import Size
from matryoshka2d.training.training_options import TrainingOptions, preset_of

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


def widen(encoder: ElasticEncoder, *, frozen: bool, precision: Precision) -> None:
    """Put what is trained into float32: half precision would round the small steps of an optimizer away.

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


def rates(options: TrainingOptions) -> tuple[float, float]:
    """Return the rates of the lowest and of the highest layer.

    Raises
    ------
    UserError
        If one of them is 0 and the other is not.

    >>> rates(TrainingOptions(strategy="all-sizes"))
    (0.0003, 3e-05)
    >>> rates(TrainingOptions(strategy="full", learning_rate=1e-5))
    (1e-05, 1e-05)
    """
    preset = preset_of(options)
    lowest = preset.learning_rate if options.learning_rate is None else options.learning_rate
    highest = lowest * preset.top_share if options.top_learning_rate is None else options.top_learning_rate
    if (lowest == 0) != (highest == 0):
        raise UserError(
            f"learning_rate {lowest} and top_learning_rate {highest}: the rate cannot fall geometrically "
            f"from or to 0; set both to 0 to train the heads alone, or neither"
        )
    return lowest, float(f"{highest:.12g}")


def by_depth(lowest: float, highest: float, depth: int) -> list[float]:
    """Return the rate of every layer, from layer 1 to the last, falling geometrically.

    >>> [round(rate, 6) for rate in by_depth(1e-3, 1e-5, 3)]
    [0.001, 0.0001, 1e-05]
    """
    steps = max(depth - 1, 1)
    return [lowest * (highest / lowest) ** (n / steps) for n in range(depth)]


def mapping(encoder: ElasticEncoder, lowest: float, highest: float, heads: float) -> dict[str, float]:
    """Return the trainer's `learning_rate_mapping`: a pattern of parameter names → a rate.

    Rates are those of the first layer, of the last, and of the exit heads.

    Parameters of no layer (the embedding table) keep the rate of the lowest layer.
    """
    path = re.escape(architectures.architecture_of(encoder.base.config).layers)
    by_name: dict[str, float] = {}
    if highest != lowest:
        layers = by_depth(lowest, highest, encoder.depth)
        by_name = {rf"\.{path}\.{n}\.": rate for n, rate in enumerate(layers)}
        norm = architectures.architecture_of(encoder.base.config).final_norm
        if norm:
            by_name[rf"model\.{re.escape(norm)}\."] = highest
    if encoder.heads is not None:
        by_name[r"exit_heads\."] = heads
    return by_name


def check_reads_the_text(
    encoder: ElasticEncoder, name: str, strategy: Strategy, shape: Shape, draws: int = 256
) -> None:
    """Raise a `UserError` if a strategy trains the embedding output of a model that pools its last token.

    Below the first layer the last token has seen no other: its vector says nothing of the text.
    """
    modes = {getattr(module, "pooling_mode", None) for module in encoder}
    plans = (strategy.plan(shape, random.Random(step)) for step in range(draws))
    if "lasttoken" in modes and any(0 in plan.layers() for plan in plans):
        raise UserError(
            f"strategy '{name}' trains the output of the embedding table too, where the last token, which "
            "this model pools, has read nothing: choose all-sizes or 2dmse, or pooling mean"
        )


def trained_sizes(strategy: Strategy, shape: Shape, draws: int = 256) -> list[Size]:
    """Return the sizes that a strategy trains, smallest first; those of many steps where it samples.

    >>> from matryoshka2d.losses.strategies import make_strategy
    >>> [str(size) for size in trained_sizes(make_strategy("mrl", dims=(4, 8)), Shape(2, 16))]
    ['2x4', '2x8', '2x16']
    """
    plans = [strategy.plan(shape, random.Random(step)) for step in range(draws)]
    exits = {(term.layers, term.dims) for plan in plans for term in plan.terms}
    return sorted(Size(*pair) for pair in exits if pair[0] > 0)
