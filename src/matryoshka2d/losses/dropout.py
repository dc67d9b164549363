"""Dropout whose masks are cheap, and do not depend on what other threads draw.

torch draws its masks from one generator for all threads, element by element: on a CPU that is slow,
and the order in which threads come decides who gets which mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_STEPS = 2**16


class SeededDropout(TorchFunctionMode):
    """A context in which dropout, that of torch's fused attention included, draws from its own generator.

    Parameters
    ----------
    seed
        What the masks depend on, with the order and the shapes of the calls.

    Notes
    -----
    An element costs two random bytes; its chance to be dropped is a multiple of 1/65,536.

    Examples
    --------
    >>> with SeededDropout(1):
    ...     first = functional.dropout(torch.ones(4, 100), 0.5)
    >>> with SeededDropout(1):
    ...     second = functional.dropout(torch.ones(4, 100), 0.5)
    >>> torch.equal(first, second), sorted(set(first.flatten().tolist()))
    (True, [0.0, 2.0])
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = np.random.SFC64(seed)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, dropout in our way."""
        kwargs = kwargs or {}
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        if func is functional.scaled_dot_product_attention and kwargs.get("dropout_p", 0.0) > 0:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        dropped = round(p * _STEPS)
        if not training or dropped == 0:
            return x
        if dropped == _STEPS:
            return x * 0
        draws = self._random.random_raw(-(-x.numel() // 4)).view(np.uint16)[: x.numel()]
        kept = torch.from_numpy(draws >= dropped).view(x.shape).to(x.dtype)
        kept.mul_(_STEPS / (_STEPS - dropped))
        return x.mul_(kept) if inplace else x * kept

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attend as torch's own function does where it has dropout, which is not fused on a CPU either."""
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        scores = query @ key.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
        if is_causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~seen, -math.inf)
        if attn_mask is not None:
            hides = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -math.inf) if hides else scores + attn_mask
        return self._dropout(torch.softmax(scores, dim=-1), dropout_p) @ value
