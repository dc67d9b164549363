"""The word vectors of a step, looked up once for all the groups that its texts run in.

The gradient of a lookup is as large as the whole table: 47 MB for 30,000 words of 384 dims, 384 MB for the
250,000 of a multilingual model. Were each group of a batch to look its words up, it would write such a
gradient and add it to that of the others. Looked up once, the distinct words of a step give one, and a group
adds one that is as small as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from matryoshka2d.architectures import Wrapped


class Words(Wrapped):
    """The vectors of some words, in place of the table that they were looked up in.

    Parameters
    ----------
    table
        The embedding of the model; attributes that an encoder reads of it are still its own.
    tokens
        The texts' token ids, int64 tensors of any shape: no others can be looked up.

    Examples
    --------
    >>> table = nn.Embedding(1000, 2)
    >>> words = Words(table, [torch.tensor([[7, 9]]), torch.tensor([[9, 3]])])
    >>> words.ids.tolist(), words.vectors.shape
    ([3, 7, 9], torch.Size([3, 2]))
    >>> torch.equal(words(torch.tensor([[9, 7]])), table(torch.tensor([[9, 7]])))
    True
    """

    def __init__(self, table: nn.Module, tokens: Iterable[Tensor]) -> None:
        super().__init__(table)
        self.ids = torch.unique(torch.cat([some.reshape(-1) for some in tokens]))
        self.vectors: Tensor = table(self.ids)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return the vectors of tokens [texts, tokens]: [texts, tokens, hidden]."""
        return nn.functional.embedding(torch.searchsorted(self.ids, token_ids.contiguous()), self.vectors)


def table_of(model: nn.Module) -> nn.Embedding | None:
    """Return the table that a model looks its words up in, if its gradient is what `Words` can save.

    None where the table is frozen, where nothing is learnt, where its gradient is sparse or depends on how
    often a word is looked up, and where the model does not say which module it is.
    """
    try:
        table = model.get_input_embeddings()  # type: ignore[operator]
    except NotImplementedError:
        # What transformers raises for a model in which it finds no such table.
        return None
    if not isinstance(table, nn.Embedding) or not (torch.is_grad_enabled() and table.weight.requires_grad):
        return None
    return None if table.sparse or table.scale_grad_by_freq or table.max_norm is not None else table
