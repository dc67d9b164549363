"""The weak decoder: one layer that rebuilds a heavily masked text from its vector.

So little of the text is left to it that it depends on the vector, and so little is it that it cannot make up
for a vector that holds too little. After pretraining it is thrown away.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from matryoshka2d import ElasticEncoder
from matryoshka2d.encoder import Wrapped, layers_of


class Decoder(nn.Module):
    """One transformer layer over the encoder's own embeddings, with a vector in place of the first token.

    Parameters
    ----------
    encoder
        Its first layer is what the decoder's starts as; embeddings and final norm stay the encoder's.
    """

    def __init__(self, encoder: ElasticEncoder) -> None:
        super().__init__()
        first = layers_of(encoder.base)[0]
        config = encoder.base.config
        # One config for both: how attention is computed is chosen there.
        self.layer = copy.deepcopy(first, {id(config): config})
        hidden = encoder.hidden
        # Where vectors are pooled token states this starts as the identity: they are of one kind.
        self.up = nn.Linear(encoder.width, hidden)
        nn.init.eye_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        # Whoever uses the vector normalizes it: the decoder, too, is to learn from its direction.
        self.norm = nn.LayerNorm(hidden)

    def forward(self, encoder: ElasticEncoder, features: dict[str, Any], vectors: Tensor) -> Tensor:
        """Return the states of all tokens.

        Parameters
        ----------
        encoder
            The encoder.
        features
            The heavily masked texts: tensors [rows, tokens].
        vectors
            Float [rows, width]: a size's vector, with zeros behind its last dim.

        Returns
        -------
        Tensor
            Float [rows, tokens, hidden].
        """
        layer = _VectorFirst(
            self.layer, self.norm(self.up(vectors)), first_tokens(features["attention_mask"])
        )
        return encoder.through([layer], features)


def first_tokens(mask: Tensor) -> Tensor:
    """Return bool [rows, tokens]: the first token of every row, on whichever side it is padded.

    >>> first_tokens(torch.tensor([[1, 1, 0], [0, 1, 1]])).int().tolist()
    [[1, 0, 0], [0, 1, 0]]
    """
    return (mask.cumsum(dim=1) == 1) & (mask == 1)


class _VectorFirst(Wrapped):
    """A layer that reads a vector where the first token would be."""

    def __init__(self, layer: nn.Module, vectors: Tensor, first: Tensor) -> None:
        super().__init__(layer)
        self.vectors = vectors
        self.first = first

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        vectors = self.vectors[:, None].to(hidden_states.dtype)
        states = torch.where(self.first[..., None], vectors, hidden_states)
        return self.layer(states, *args, **kwargs)
