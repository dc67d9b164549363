"""Two masked copies of every text: a light one for the encoder, a heavy one for the decoder.

transformers' own collator draws the masks. Everything random comes from the seed and the number of the batch,
so that a resumed run sees the masks that an unbroken one would, whatever was fetched ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling

from matryoshka2d.losses.strategies import StepRandom

UNMASKED = -100
"""Label of a token that is not predicted, as everywhere in transformers."""


class TwoMaskedCopies:
    """A collator: rows with a ``text`` → the arguments of `MaskedAutoencoding`.

    Of the encoder's masked tokens, a tenth are other words and a tenth are left as they are, as BERT has it.
    Of the decoder's none is left: what it does not see it must read from the vector.

    Parameters
    ----------
    preprocess
        Texts → tensors [batch, tokens]: that of the encoder.
    tokenizer
        Has a mask token.
    light, heavy
        Shares of the tokens that are masked.
    predictions
        Most labels that either copy keeps.
    seed
        Seed of the run.
    """

    def __init__(
        self,
        preprocess: Callable[[Sequence[str]], dict[str, Any]],
        tokenizer: Any,
        light: float,
        heavy: float,
        predictions: int,
        seed: int,
    ) -> None:
        self.preprocess = preprocess
        self.light = DataCollatorForLanguageModeling(tokenizer, mlm_probability=light)
        self.heavy = DataCollatorForLanguageModeling(
            tokenizer, mlm_probability=heavy, mask_replace_prob=1.0, random_replace_prob=0.0
        )
        self.predictions = predictions
        self.seed = seed
        self.batch = 0

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the features with light masks, the heavily masked ids, and the labels of both."""
        rng = torch.Generator().manual_seed(StepRandom(self.seed, self.batch).getrandbits(63))
        self.batch += 1
        given = self.preprocess([row["text"] for row in rows])
        features = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        light, labels = self._masked(self.light, features["input_ids"], rng)
        heavy, heavy_labels = self._masked(self.heavy, features["input_ids"], rng)
        return {
            "features": {**features, "input_ids": light},
            "labels": labels,
            "heavy_ids": heavy,
            "heavy_labels": heavy_labels,
        }

    def _masked(
        self, collator: DataCollatorForLanguageModeling, ids: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        collator.generator = rng
        masked, labels = collator.torch_mask_tokens(ids.clone())
        return masked, at_most(labels, self.predictions, rng)


def at_most(labels: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Return the labels of so many masked tokens, drawn at random; of all, where there are no more.

    >>> labels = torch.tensor([[7, -100, 8], [9, 6, 5]])
    >>> int((at_most(labels, 2, torch.Generator().manual_seed(0)) != UNMASKED).sum())
    2
    """
    places = (labels.flatten() != UNMASKED).nonzero().flatten()
    left_out = places[torch.randperm(len(places), generator=rng)[count:]]
    return labels.flatten().index_fill(0, left_out, UNMASKED).view_as(labels)
