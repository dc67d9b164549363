"""Tiny randomly initialized models of every architecture in the table, with a word-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

WORDS = "a cat dog sat on the mat red blue runs fast slowly in rain sun query passage : house tree river"
TEXTS = [
    "a cat sat on the mat",
    "the dog runs fast",
    "red house",
    "a blue river runs slowly in the rain on the red mat in the sun",
    "cat",
]
LAYERS = 4
WIDTH = 32

_SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "initializer_range": 0.3,
}
_SPECIAL: dict[str, dict[str, Any]] = {
    "distilbert": {"hidden_dim": 48, "sinusoidal_pos_embds": False},
    "electra": {"embedding_size": 16},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "conv_kernel_size": 3,
        "conv_act": "gelu",
        "max_relative_positions": 16,
    },
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 4},
    "gemma3_text": {"sliding_window_pattern": 2, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "qwen3": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
}


def tokenizer(padding_side: str = "right") -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer over `WORDS` that adds [CLS] and [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {word: i for i, word in enumerate([*special, *dict.fromkeys(WORDS.split())])}
    raw = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = Whitespace()
    raw.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        padding_side=padding_side,
        model_max_length=64,
    )


def checkpoint(
    folder: Path, model_type: str = "bert", padding_side: str = "right", seed: int = 0, **config: Any
) -> str:
    """Write a plain transformers checkpoint and return its folder."""
    torch.manual_seed(seed)
    shape = {**_SHAPE, **_SPECIAL.get(model_type, {}), **config}
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms start as the identity, which would hide a norm that is left out or applied twice.
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer(padding_side).save_pretrained(folder)
    return str(folder)


def sentence_model(
    folder: Path,
    model_type: str = "bert",
    *,
    padding_side: str = "right",
    pooling: str = "mean",
    dense: bool = False,
    normalize: bool = True,
    include_prompt: bool = True,
    prompts: dict[str, str] | None = None,
    **config: Any,
) -> str:
    """Write a sentence-transformers model and return its folder."""
    base = checkpoint(folder / "base", model_type, padding_side, **config)
    transformer = Transformer(base)
    width = transformer.get_embedding_dimension()
    modules = [transformer, Pooling(width, pooling, include_prompt=include_prompt)]
    if dense:
        modules.append(Dense(width, 24, activation_function=torch.nn.Tanh()))
    if normalize:
        modules.append(Normalize())
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
    model.save(str(folder / "model"), create_model_card=False)
    return str(folder / "model")
