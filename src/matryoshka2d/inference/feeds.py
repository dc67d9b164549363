"""What a graph takes for a batch of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from matryoshka2d.export.signature import PROMPT_LENGTH
from matryoshka2d.inference.tokens import Integers, Tokens


def feeds(names: Sequence[str], tokens: Tokens, fill: int) -> dict[str, Integers]:
    """Return what a graph takes for a batch: name → int64 [texts, length].

    >>> feeds(["input_ids", "attention_mask"], Tokens(np.array([1, 2, 3]), np.array([1, 2])), 0)["input_ids"]
    array([[1, 0],
           [2, 3]])
    """
    ids, mask = tokens.padded(fill)
    given: Mapping[str, Integers] = {
        "input_ids": ids,
        "attention_mask": mask,
        PROMPT_LENGTH: np.array([tokens.prompt_length], dtype=np.int64),
    }
    return {name: given[name] if name in given else np.zeros_like(ids) for name in names}
