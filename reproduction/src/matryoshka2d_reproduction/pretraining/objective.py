"""The loss of a step: masked tokens at every size, from the token states and from the vector alone.

At a size n x d, layer n's token states and the sentence vector are cut to their first d dims. The encoder's
masked tokens are predicted from the states (MLM), the decoder's from what it makes of the vector
(reconstruction); the loss is the mean of the two, and over the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from matryoshka2d import ElasticEncoder, Size
from matryoshka2d.losses import SizeLosses
from matryoshka2d_reproduction.pretraining.decoder import Decoder
from matryoshka2d_reproduction.pretraining.masking import UNMASKED
from matryoshka2d_reproduction.pretraining.vocabulary import VocabularyHead


class MaskedAutoencoding(nn.Module):
    """Starbucks' masked autoencoder (SMAE): a step is one pass of the encoder and one of the decoder.

    Parameters
    ----------
    encoder
        The encoder to pretrain.
    head
        Predicts tokens from states; shared by all sizes and by the decoder.
    decoder
        Rebuilds a text from its vector; shared by all sizes.
    sizes
        The sizes that learn.

    Attributes
    ----------
    by_size
        Means of both losses of every size since they were last taken, for logs.

    References
    ----------
    Zhuang et al. 2024, Starbucks: Improved Training for 2D Matryoshka Embeddings, arXiv 2410.13230.
    """

    def __init__(
        self, encoder: ElasticEncoder, head: VocabularyHead, decoder: Decoder, sizes: Sequence[Size]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.decoder = decoder
        self.sizes = tuple(sizes)
        self.by_size = SizeLosses()

    def forward(
        self, features: dict[str, Any], labels: Tensor, heavy_ids: Tensor, heavy_labels: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss of one batch.

        Parameters
        ----------
        features
            The lightly masked texts: tensors [batch, tokens].
        labels
            Int64 [batch, tokens]: what was masked for the encoder, -100 elsewhere.
        heavy_ids
            Int64 [batch, tokens]: the heavily masked texts.
        heavy_labels
            As `labels`, for the decoder.
        """
        states = self.encoder.token_states(features, [size.layers for size in self.sizes])
        vectors = {n: self.encoder.pooled(features, state, n) for n, state in states.items()}
        mlm = self.mlm(states, labels)
        rebuilt = self.reconstruction(vectors, {**features, "input_ids": heavy_ids}, heavy_labels)
        if self.training:
            for kind, losses in (("mlm", mlm), ("reconstruction", rebuilt)):
                self.by_size.add([f"{kind}/{size}" for size in self.sizes], losses.unbind())
        return {"loss": (mlm + rebuilt).mean() / 2}

    def mlm(self, states: dict[int, Tensor], labels: Tensor) -> Tensor:
        """Return float [sizes]: how badly the token states of each size predict the encoder's masked tokens.

        A model whose vector is not in the space of its token states, as with a Dense module behind the
        pooling, has no first dims of a state that belong to a size: whole states are read there.
        """
        cuts = self.encoder.hidden == self.encoder.width
        places = labels != UNMASKED
        rows = [prefix(states[s.layers][places], s.dims if cuts else self.encoder.hidden) for s in self.sizes]
        return losses_by_size(self.head(torch.cat(rows)), labels[places], len(self.sizes))

    def reconstruction(self, vectors: dict[int, Tensor], heavy: dict[str, Any], labels: Tensor) -> Tensor:
        """Return float [sizes]: how badly the decoder rebuilds the texts from the vectors of each size."""
        count = len(self.sizes)
        rows = torch.cat([prefix(vectors[size.layers], size.dims) for size in self.sizes])
        repeated = {
            name: value.repeat(count, 1) if isinstance(value, Tensor) else value
            for name, value in heavy.items()
        }
        states = self.decoder(self.encoder, repeated, rows)
        places = labels != UNMASKED
        return losses_by_size(self.head(states[places.repeat(count, 1)]), labels[places], count)


def prefix(vectors: Tensor, dims: int) -> Tensor:
    """Return the vectors with zeros behind their first dims, which a linear map takes for a cut.

    >>> prefix(torch.tensor([[3.0, 4.0, 5.0]]), 2)
    tensor([[3., 4., 0.]])
    """
    return nn.functional.pad(vectors[..., :dims], (0, vectors.shape[-1] - dims))


def losses_by_size(scores: Tensor, targets: Tensor, sizes: int) -> Tensor:
    """Return float [sizes]: the mean cross-entropy of each size; 0 where no token is to be predicted.

    Parameters
    ----------
    scores
        Float [sizes * tokens, vocabulary], size after size.
    targets
        Int64 [tokens], the same for all sizes.
    sizes
        How many sizes there are.

    Examples
    --------
    >>> losses_by_size(torch.zeros(2, 4), torch.tensor([1]), sizes=2)
    tensor([1.3863, 1.3863])
    """
    by_token = nn.functional.cross_entropy(scores.float(), targets.repeat(sizes), reduction="none")
    return by_token.view(sizes, len(targets)).sum(dim=1) / max(len(targets), 1)
