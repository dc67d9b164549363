"""Where an architecture keeps its layers: the only file that knows an architecture by name.

Adding an architecture is adding a row to `ARCHITECTURES`. The contract tests in
``tests/encoder/test_architectures.py`` then run on a tiny random model of it by themselves: exit n must equal
the model cut to n layers, with right and left padding, saved and loaded by stock sentence-transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from matryoshka2d.errors import UserError, did_you_mean


@dataclass(frozen=True)
class PostNormParts:
    """Where a BERT-like model keeps its parts: layers of attention, add and norm, GELU, add and norm.

    Such layers can run on texts that are laid end to end, without padding. Embedding paths start at the
    base model, the others at a layer.

    Parameters
    ----------
    word, position, token_type, embedding_norm
        The embedding tables, ``token_type`` None where there is none, and the norm of their sum.
    query, key, value, attention_output, attention_norm
        The attention block.
    up, down, output_norm
        The feed-forward block.
    activation
        Name of the config entry that must say ``"gelu"``.
    depth, attention_heads, hidden, inner
        Names of the config entries that hold those numbers.
    norm_eps
        Name of the config entry, or the number itself where the config has none.
    positions_follow_padding
        Whether positions count from the padding token's id, as RoBERTa's do.
    """

    word: str = "embeddings.word_embeddings"
    position: str = "embeddings.position_embeddings"
    token_type: str | None = "embeddings.token_type_embeddings"
    embedding_norm: str = "embeddings.LayerNorm"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    output_norm: str = "output.LayerNorm"
    activation: str = "hidden_act"
    depth: str = "num_hidden_layers"
    attention_heads: str = "num_attention_heads"
    hidden: str = "hidden_size"
    inner: str = "intermediate_size"
    norm_eps: str | float = "layer_norm_eps"
    positions_follow_padding: bool = False

    def fits(self, config: Any) -> bool:
        """Return whether a model of this config computes what its architecture usually does."""
        return getattr(config, self.activation, None) == "gelu" and not getattr(config, "is_decoder", False)

    def eps(self, config: Any) -> float:
        """Return what the norms add to a variance."""
        return float(getattr(config, self.norm_eps) if isinstance(self.norm_eps, str) else self.norm_eps)

    def positions(self, config: Any) -> int:
        """Return how many tokens the table of positions has room for."""
        before = config.pad_token_id + 1 if self.positions_follow_padding else 0
        return int(config.max_position_embeddings) - before

    def shapes(self, config: Any, layers: str, depth: int) -> dict[str, tuple[int, ...]]:
        """Return the names of all weights in the base model, and their shapes."""
        hidden, inner = getattr(config, self.hidden), getattr(config, self.inner)
        found: dict[str, tuple[int, ...]] = {
            f"{self.word}.weight": (config.vocab_size, hidden),
            f"{self.position}.weight": (config.max_position_embeddings, hidden),
        }
        if self.token_type is not None:
            found[f"{self.token_type}.weight"] = (config.type_vocab_size, hidden)
        norms, linears = [self.embedding_norm], dict[str, tuple[int, int]]()
        for layer in (f"{layers}.{n}" for n in range(depth)):
            norms += [f"{layer}.{self.attention_norm}", f"{layer}.{self.output_norm}"]
            for part in (self.query, self.key, self.value, self.attention_output):
                linears[f"{layer}.{part}"] = (hidden, hidden)
            linears |= {f"{layer}.{self.up}": (inner, hidden), f"{layer}.{self.down}": (hidden, inner)}
        shaped: dict[str, tuple[int, ...]] = {**linears, **dict.fromkeys(norms, (hidden,))}
        for path, shape in shaped.items():
            found |= {f"{path}.weight": shape, f"{path}.bias": shape[:1]}
        return found


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Parameters
    ----------
    layers
        Dotted path, inside the transformers base model, of the ``ModuleList`` that holds the layers.
    final_norm
        Dotted path of the norm that follows the last layer, or None where the layers normalize
        themselves. It is applied at every exit, because a model cut there would apply it.
    per_layer_config
        Names of config entries that are lists with one element a layer; cut together with the layers.
    transformers
        The oldest release of transformers that reads a config written today. Release 5 renamed the
        settings of rotary positions.
    causal
        Whether a token sees only those before it, unless the config says ``use_bidirectional_attention``.
        The first token of such a model knows nothing of the text.
    post_norm
        For BERT-like models: where their parts are, so that inference may run them without padding.
        None runs the model's own layers, which is right for any architecture.
    """

    layers: str
    final_norm: str | None = None
    per_layer_config: tuple[str, ...] = ("layer_types",)
    transformers: str = "4.41"
    causal: bool = False
    post_norm: PostNormParts | None = None


_BERT = PostNormParts()
_ROBERTA = replace(_BERT, positions_follow_padding=True)
_DISTILBERT = PostNormParts(
    token_type=None,
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
    activation="activation",
    depth="n_layers",
    attention_heads="n_heads",
    hidden="dim",
    inner="hidden_dim",
    norm_eps=1e-12,
)

ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture("encoder.layer", post_norm=_BERT),
    "roberta": Architecture("encoder.layer", post_norm=_ROBERTA),
    "xlm-roberta": Architecture("encoder.layer", post_norm=_ROBERTA),
    "camembert": Architecture("encoder.layer", post_norm=_ROBERTA),
    "mpnet": Architecture("encoder.layer"),
    "electra": Architecture("encoder.layer"),
    "deberta-v2": Architecture("encoder.layer"),
    "distilbert": Architecture("transformer.layer", post_norm=_DISTILBERT),
    "modernbert": Architecture("layers", final_norm="final_norm", transformers="5.0"),
    "eurobert": Architecture("layers", final_norm="norm", transformers="5.3"),
    "qwen3": Architecture("layers", final_norm="norm", transformers="5.0", causal=True),
    "gemma3_text": Architecture("layers", final_norm="norm", transformers="5.0", causal=True),
}
"""``config.model_type`` → where its layers are."""


class UnknownArchitectureError(UserError):
    """The model's architecture is not in the table, so its inner exits cannot be reached."""


def architecture_of(config: Any) -> Architecture:
    """Return the row for a transformers config.

    Raises
    ------
    UnknownArchitectureError
        If the architecture is not in the table; names the known ones and how to add a row.

    Examples
    --------
    >>> from transformers import BertConfig
    >>> architecture_of(BertConfig()).layers
    'encoder.layer'
    """
    model_type = getattr(config, "model_type", "")
    if model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnknownArchitectureError(
            f"architecture '{model_type}' is not known: expected one of {known}."
            f"{did_you_mean(model_type, ARCHITECTURES)} To add it, put a row into "
            f"matryoshka2d.encoder.architectures.ARCHITECTURES: ARCHITECTURES['{model_type}'] = "
            f"Architecture(layers='path.of.its.layers', final_norm=None)"
        )
    return ARCHITECTURES[model_type]


def is_causal(config: Any) -> bool:
    """Return whether a token of this model sees only those before it.

    >>> from transformers import BertConfig, Qwen3Config
    >>> is_causal(Qwen3Config()), is_causal(BertConfig())
    (True, False)
    """
    return architecture_of(config).causal and not getattr(config, "use_bidirectional_attention", False)


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Return the list of layers of a transformers base model (shared, not copied)."""
    layers = model.get_submodule(architecture_of(model.config).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def final_norm_of(model: nn.Module) -> nn.Module | None:
    """Return the norm that follows the last layer, or None where there is none."""
    path = architecture_of(model.config).final_norm
    return model.get_submodule(path) if path else None


def learned_positions(model: nn.Module) -> int | None:
    """Return how many tokens a table of learned positions has room for, or None where there is no table.

    RoBERTa's kin count positions from behind the id of their padding token, so that the rows before are no
    token's.

    >>> from transformers import RobertaConfig, RobertaModel
    >>> small = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "vocab_size": 9}
    >>> learned_positions(RobertaModel(RobertaConfig(**small, max_position_embeddings=66, pad_token_id=1)))
    64
    """
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding):
            padding = getattr(module, "padding_idx", None)
            return table.num_embeddings - (padding + 1 if isinstance(padding, int) else 0)
    return None


def view(model: nn.Module, layers: Sequence[nn.Module]) -> nn.Module:
    """Return the same model running only the given layers; every weight is shared, nothing is copied.

    Only the containers on the way to the layers are new objects, so the original does not change and any
    number of threads may each hold a view of their own.
    """
    path = architecture_of(model.config).layers.split(".")
    return _replace(model, path, nn.ModuleList(layers))


def with_wrapped(model: nn.Module, wrapped: Wrapped) -> nn.Module:
    """Return the same model with a wrapped part in place of that part itself, as `view` does with layers."""
    path = next(name for name, module in model.named_modules() if module is wrapped.layer)
    return _replace(model, path.split("."), wrapped)


def _replace(module: nn.Module, path: list[str], new: nn.Module) -> nn.Module:
    if not path:
        return new
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    child = module.get_submodule(path[0])
    clone._modules[path[0]] = _replace(child, path[1:], new)
    return clone


class Wrapped(nn.Module):
    """A part of a model, mostly a layer, with something around it; an encoder may take it for the part."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        # Encoders read attributes of their layers, such as ModernBERT's attention_type.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class Tap(Wrapped):
    """Hands its input on to the layer it wraps and notes that input down.

    The input of layer n + 1 is the exit of layer n. Inputs are noted rather than outputs because some
    encoders (DeBERTa's convolution) still change what a layer returned before the next one gets it.
    """

    def __init__(self, layer: nn.Module, noted: list[torch.Tensor]) -> None:
        super().__init__(layer)
        self.noted = noted

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.noted.append(hidden_states)
        return self.layer(hidden_states, *args, **kwargs)


def cut_config(config: Any, layers: int) -> dict[str, Any]:
    """Return the config entries of a model cut to its first layers.

    Returns
    -------
    dict
        ``num_hidden_layers`` and every per-layer list, shortened.

    Examples
    --------
    >>> from transformers import Qwen3Config
    >>> cut_config(Qwen3Config(num_hidden_layers=4), 2)
    {'num_hidden_layers': 2, 'layer_types': ['full_attention', 'full_attention']}
    """
    entries: dict[str, Any] = {"num_hidden_layers": layers}
    for name in architecture_of(config).per_layer_config:
        values = getattr(config, name, None)
        if isinstance(values, (list, tuple)):
            entries[name] = list(values[:layers])
    return entries


def cut(model: nn.Module, layers: int) -> nn.Module:
    """Return an independent copy of a transformers base model with only its first layers."""
    shallow = copy.deepcopy(view(model, list(layers_of(model))[:layers]))
    for module in shallow.modules():
        if hasattr(module, "config"):
            for name, value in cut_config(model.config, layers).items():
                setattr(module.config, name, value)
    return shallow
