"""The head that predicts masked tokens: a checkpoint's own, or a new one over its embedding table."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from matryoshka2d import ElasticEncoder, UserError
from matryoshka2d.encoder import in_one_line, is_causal, transformer_folder


class VocabularyHead(nn.Module):
    """What a transformers model for masked tokens puts above its base model, whatever it is called there.

    The model stands around a base that hands the states on as they come. Weights that it shares with its
    base, such as the embedding table, are those of the encoder.

    Parameters
    ----------
    model
        A transformers model for masked tokens; its base is thrown away.
    base
        The encoder's base model, of the same architecture.
    """

    def __init__(self, model: PreTrainedModel, base: nn.Module) -> None:
        super().__init__()
        own: nn.Module = model.base_model
        shared = {id(parameter): name for name, parameter in own.named_parameters()}
        setattr(model, model.base_model_prefix, _HandsOn(base))
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) in shared:
                    module._parameters[name] = base.get_parameter(shared[id(parameter)])
        self.model = model

    def forward(self, states: Tensor) -> Tensor:
        """Return float [rows, vocabulary]: a score of every token for each state [rows, hidden]."""
        scores: Tensor = self.model(inputs_embeds=states[None]).logits[0]
        return scores


class _HandsOn(nn.Module):
    """Stands for a base model: what comes in is its last state. Its other parts are those of the encoder."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that the encoder's weights do not count as those of the head.
        self.stands_for = (base,)

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["stands_for"][0], name)


def check_predicts_masked(encoder: ElasticEncoder, name: str) -> None:
    """Raise a `UserError` unless a model can learn from masked tokens.

    Parameters
    ----------
    encoder
        The encoder to pretrain.
    name
        What messages call it.
    """
    config: Any = encoder.base.config
    if is_causal(config):
        raise UserError(
            f"{name} is a decoder, whose tokens see only those before them: masked tokens teach it nothing; "
            "choose an encoder such as BERT, or go on with train"
        )
    if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise UserError(
            f"{name} is of the architecture '{config.model_type}', for which transformers has no head for "
            "masked tokens: choose an encoder such as BERT, or go on with train"
        )
    if getattr(encoder.tokenizer, "mask_token_id", None) is None:
        raise UserError(f"the tokenizer of {name} has no mask token: expected one such as [MASK] or <mask>")


def load_head(name: str, encoder: ElasticEncoder) -> tuple[VocabularyHead, bool]:
    """Load the head of a checkpoint.

    Parameters
    ----------
    name
        The folder or hub name that the encoder was loaded from.
    encoder
        The encoder, whose embedding table the head shares.

    Returns
    -------
    VocabularyHead, bool
        The head, and whether its weights were in the checkpoint; new ones are drawn as transformers draws
        them.
    """
    folder = transformer_folder(name, {})
    with in_one_line(name), _without_report():
        model, report = AutoModelForMaskedLM.from_pretrained(
            name, subfolder=folder, dtype=torch.float32, output_loading_info=True
        )
    base = f"{model.base_model_prefix}."
    missing = [key for key in report["missing_keys"] if not key.startswith(base)]
    return VocabularyHead(model, encoder.base), not missing


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers from reporting that weights of the head are new: the run says so in one line."""
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
