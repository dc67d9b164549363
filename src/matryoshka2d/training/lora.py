"""LoRA: small trainable matrices beside frozen weights, merged into them when the run is over.

The adapters stand inside the model's own layers, so exits, heads, strategies and gradients are what they
are without them. After merging nothing of them is left: the saved model is one of plain weights, which
cuts, exports and loads anywhere.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import nn

from matryoshka2d.encoder import architectures
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError, did_you_mean, needs
from matryoshka2d.options import Names, Positive, make, options


@options
class Lora:
    """Low-rank adapters on linear layers of every transformer layer; everything but them and heads is frozen.

    Parameters
    ----------
    rank
        Rank of the adapters, default 16. Raise it, to 64 or more, for much data or a new language.
    alpha
        The adapters' output is scaled by alpha / rank, default 32. Leave it, and change the learning rate.
    dropout
        Dropout before the adapters, default 0. Set 0.05 or 0.1 for little data and several epochs.
    targets
        Names of the linear layers that get an adapter, as q_proj,v_proj, default all of them. Name the
        attention's alone to save memory.

    Raises
    ------
    UserError
        If a number is not possible.

    References
    ----------
    Hu et al. 2021, arXiv 2106.09685.
    """

    rank: PositiveInt = 16
    alpha: Positive = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Names = ()


def make_lora(options: dict[str, str]) -> Lora:
    """Make the description of adapters from options, which may be texts.

    Raises
    ------
    UserError
        If peft is not installed, or an option is wrong.
    """
    needs("lora", "peft")
    return make("adapter", {"lora": Lora}, "lora", options)


def target_layers(base: nn.Module, targets: Names) -> list[str]:
    """Return the full names of the linear layers that get an adapter.

    Parameters
    ----------
    base
        A transformers base model.
    targets
        Last parts of their names, as ``q_proj``; all linear layers of the transformer layers if empty.

    Raises
    ------
    UserError
        If no linear layer has one of the names.
    """
    path = architectures.architecture_of(base.config).layers
    linear = [
        f"{path}.{name}"
        for name, module in architectures.layers_of(base).named_modules()
        if isinstance(module, nn.Linear)
    ]
    # "0.attention.self.query" is called by any of its endings that do not name the layer's number.
    known = {name.removeprefix(f"{path}.").split(".", 1)[1] for name in linear}
    for target in targets:
        if not any(_is_called(name, target) for name in known):
            short = sorted({name.rsplit(".", 1)[-1] for name in known})
            raise UserError(
                f"the model has no linear layer '{target}' for LoRA: expected some of {', '.join(short)}."
                f"{did_you_mean(target, short)}"
            )
    return [name for name in linear if not targets or any(_is_called(name, target) for target in targets)]


def _is_called(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def add_adapters(encoder: ElasticEncoder, lora: Lora, *, seed: int = 0) -> None:
    """Freeze the encoder but for its heads, and put adapters into it; its vectors are the same at first.

    Raises
    ------
    UserError
        If the model has none of the linear layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = target_layers(encoder.base, lora.targets)
    encoder.requires_grad_(False)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=names,
    )
    torch.manual_seed(seed)
    inject_adapter_in_model(config, encoder.base)
    for module in _adapted(encoder.base).values():
        for name, parameter in module.named_parameters():
            # In half precision the small steps of an optimizer would be rounded away.
            if "lora_" in name:
                parameter.data = parameter.data.float()
    if encoder.heads is not None:
        encoder.heads.requires_grad_(True)


def merge_adapters(encoder: ElasticEncoder) -> None:
    """Add the adapters to the weights that they stand beside, in float32, and take them out again.

    Raises
    ------
    UserError
        If a merged weight is not finite: the run has diverged.
    """
    base = encoder.base
    for name, module in _adapted(base).items():
        plain = module.get_base_layer()
        dtype = plain.weight.dtype
        plain.float()
        try:
            module.merge(safe_merge=True)
        except ValueError as error:
            raise UserError(
                f"LoRA's weights at {name} are not finite: the run diverged; lower --learning-rate"
            ) from error
        parent, _, last = name.rpartition(".")
        setattr(base.get_submodule(parent), last, plain.to(dtype))
    if hasattr(base, "peft_config"):
        del base.peft_config
    encoder.requires_grad_(True)


def _adapted(base: nn.Module) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)}
