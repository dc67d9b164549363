"""Weights are numbers: what is not finite is refused where models are read and where they are written."""

from __future__ import annotations

import torch
from torch import nn

from matryoshka2d.errors import UserError


def refuse_unless_finite(module: nn.Module, what: str, dtype: torch.dtype | None = None) -> None:
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
    for name, tensor in module.named_parameters():
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
