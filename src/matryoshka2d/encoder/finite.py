"""Numbers that must be finite: the vectors of texts and the weights of models, and where they are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

# Rows that are looked at together: what is made on the way stays small beside vectors that lie on disk.
_AT_ONCE = 65536
_SHOWN = 40


class NotFiniteError(UserError):
    """Vectors that hold NaN or infinity.

    Parameters
    ----------
    row
        The first such row, from 0.
    text
        Its text.
    number
        The number of the text among those that a user gave, if it has one there.
    """

    def __init__(self, row: int, text: str, number: int | None = None) -> None:
        self.row, self.text = row, text
        short = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
        super().__init__(
            f"{f'the text {short}' if number is None else f'text {number} ({short})'} has a vector that "
            "holds NaN or infinity: the weights of the model are damaged, or its numbers overflow; take "
            "another model, or precision fp32"
        )


def check_finite(vectors: NDArray[Any], texts: Sequence[str], *, numbered: bool = False) -> None:
    """Raise a `NotFiniteError` unless every number of some vectors is finite.

    Parameters
    ----------
    vectors
        Float [texts, dims].
    texts
        What they are the vectors of, to name the one that is wrong.
    numbered
        Whether to name its place among them too.

    Examples
    --------
    >>> check_finite(np.array([[0.6, 0.8]]), ["a cat"])
    >>> check_finite(np.array([[0.6, 0.8], [np.nan, 1.0]]), ["a cat", "a dog"])
    Traceback (most recent call last):
    ...
    matryoshka2d.encoder.finite.NotFiniteError: the text 'a dog' has a vector that holds NaN or infinity: ...
    """
    row = first_not_finite(vectors)
    if row is not None:
        raise NotFiniteError(row, texts[row], row + 1 if numbered else None)


def first_not_finite(vectors: NDArray[Any]) -> int | None:
    """Return the first row of float [rows, dims] that holds NaN or infinity, or None.

    >>> first_not_finite(np.array([[1.0], [np.inf], [np.nan]]))
    1
    """
    for start in range(0, len(vectors), _AT_ONCE):
        finite = np.isfinite(vectors[start : start + _AT_ONCE])
        if not finite.all():
            return start + int(np.argmin(finite.all(axis=1)))
    return None


def weight_not_finite(model: nn.Module) -> str | None:
    """Return the name of the first weight of a model that holds NaN or infinity, or None.

    >>> from torch import nn
    >>> weight_not_finite(nn.Linear(2, 2)) is None
    True
    """
    import torch

    for name, weight in model.named_parameters():
        if not torch.isfinite(weight.detach()).all():
            return name
    return None


def check_weights(module: nn.Module, what: str, dtype: torch.dtype | None = None) -> None:
    """Raise a `UserError` if a weight is no number, or infinite, or would be in a narrower type.

    Parameters
    ----------
    module
        The model.
    what
        What to call it in the error.
    dtype
        The type that the weights will be written in, if it is another one.
    """
    # Buffers may hold infinities on purpose, as masks do.
    check_tensors(module.named_parameters(), what, dtype)


def check_tensors(
    named: Iterable[tuple[str, torch.Tensor]], what: str, dtype: torch.dtype | None = None
) -> None:
    """Do what `check_weights` does with tensors by their names."""
    import torch

    for name, tensor in named:
        if not torch.is_floating_point(tensor) or tensor.numel() == 0 or tensor.device.type == "meta":
            continue
        # One pass, which makes no second tensor of the size of the first. What is no number stays so.
        low, high = (float(end) for end in torch.aminmax(tensor.detach()))
        limit = torch.finfo(dtype or tensor.dtype).max
        if -limit <= low and high <= limit:
            continue
        finite = all(abs(end) < float("inf") for end in (low, high))
        if finite:
            raise UserError(
                f"{what} cannot be written in {str(dtype).removeprefix('torch.')}: {name} holds "
                f"{max(-low, high):.3g}, and the largest number there is {limit:.3g}; choose bf16 or fp32"
            )
        count = int((~torch.isfinite(tensor)).sum())
        raise UserError(
            f"{what} holds weights that are not finite: {name}, {count} of {tensor.numel()} numbers. Its "
            "training diverged or its file is damaged; take an earlier checkpoint, or make it again"
        )
