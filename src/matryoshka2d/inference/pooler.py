"""What makes vectors of the states after a layer: pooling, the model's later maps, the head of the exit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from matryoshka2d.encoder.saved_model import SavedDense, SavedModel
from matryoshka2d.inference.packed import Groups

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder

_POOLINGS = ("mean", "cls", "lasttoken")


class Pooler:
    """The part of a model behind its layers, in fp32.

    Parameters
    ----------
    pooling
        ``"mean"``, ``"cls"``, ``"lasttoken"``, or a module that pools otherwise.
    later
        What vectors [texts, dims] go through after it, in order.
    heads
        Exit → the weight of its head, float32 [width, width].
    """

    def __init__(
        self,
        pooling: str | nn.Module,
        later: Sequence[Callable[[Tensor], Tensor]],
        heads: Mapping[int, Tensor],
    ) -> None:
        self.pooling = pooling
        self.later = later
        self.heads = heads

    @classmethod
    def of(cls, encoder: ElasticEncoder) -> Pooler:
        """Return a copy of an encoder's."""
        from sentence_transformers.sentence_transformer.modules import Pooling

        own = [copy.deepcopy(module).float().eval() for module in encoder._later_modules()]
        pooling: Any = own[0]
        if isinstance(pooling, Pooling) and pooling.include_prompt and pooling.pooling_mode in _POOLINGS:
            pooling = pooling.pooling_mode
        return cls(pooling, [partial(_through, module) for module in own[1:]], _heads(encoder))

    @classmethod
    def of_saved(cls, model: SavedModel) -> Pooler:
        """Return that of a model in a folder."""
        return cls(model.pooling, [partial(_mapped, dense) for dense in model.dense], model.heads)

    def __call__(self, states: Tensor, groups: Groups, prompt_length: int, layer: int) -> Tensor:
        """Return float32 [texts, width] of the token states [total, hidden] after a layer."""
        pooled = [
            self._pool(states[start : start + texts * length].view(texts, length, -1), prompt_length)
            for start, texts, length in groups.spans
        ]
        vectors = torch.cat(pooled)
        for run in self.later:
            vectors = run(vectors)
        return functional.linear(vectors, self.heads[layer]) if layer in self.heads else vectors

    def _pool(self, states: Tensor, prompt_length: int) -> Tensor:
        """Return float32 [texts, width] of token states [texts, length, hidden]: all of them count."""
        if self.pooling == "mean":
            return states.mean(dim=1, dtype=torch.float32)
        if isinstance(self.pooling, str):
            return states[:, 0 if self.pooling == "cls" else -1].float()
        features: dict[str, Any] = {
            "token_embeddings": states.float(),
            "attention_mask": torch.ones(states.shape[:2], dtype=torch.int64),
            **({"prompt_length": prompt_length} if prompt_length else {}),
        }
        pooled: Tensor = self.pooling(features)["sentence_embedding"]
        return pooled


def _heads(encoder: ElasticEncoder) -> dict[int, Tensor]:
    heads = encoder.heads
    if heads is None:
        return {}
    found = {n: heads.at(n) for n in heads.layers()}
    return {n: head.linear.weight.detach().float().clone() for n, head in found.items() if head is not None}


def _through(module: nn.Module, vectors: Tensor) -> Tensor:
    """Return vectors [texts, dims] as a module of sentence-transformers maps them."""
    mapped: Tensor = module({"sentence_embedding": vectors})["sentence_embedding"]
    return mapped


def _mapped(dense: SavedDense, vectors: Tensor) -> Tensor:
    """Return vectors [texts, dims] as a saved linear map maps them."""
    mapped: Tensor = getattr(nn, dense.activation)()(functional.linear(vectors, dense.weight, dense.bias))
    return mapped
