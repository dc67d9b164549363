"""A run that does not fit into memory: how it is known, and which flags make it fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from matryoshka2d.errors import UserError
from matryoshka2d.training.options import TrainingOptions


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that memory ran out; on a CPU, torch says it in words alone."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


@contextlib.contextmanager
def saying_what_lowers_memory(advice: str) -> Iterator[None]:
    """Turn an error that says that memory ran out into a `UserError` with the advice."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(advice) from error


def what_lowers_memory(options: TrainingOptions) -> str:
    """Return what is said to a run that does not fit: the flags that make it fit.

    >>> what_lowers_memory(TrainingOptions(batch_size=512))
    'out of memory with batch size 512: set --mini-batch-tokens 1024, or lower --batch-size or --max-length'
    >>> what_lowers_memory(TrainingOptions(batch_size=512, mini_batch_tokens=4096))
    'out of memory with mini-batches of 4096 tokens: lower --mini-batch-tokens to 2048, or --max-length'
    """
    tokens = options.mini_batch_tokens
    if tokens is None:
        return (
            f"out of memory with batch size {options.batch_size}: set --mini-batch-tokens 1024, or lower "
            f"--batch-size or --max-length"
        )
    if tokens > options.max_length:
        lower = max(tokens // 2, options.max_length)
        return (
            f"out of memory with mini-batches of {tokens} tokens: lower --mini-batch-tokens to {lower}, or "
            f"--max-length"
        )
    return (
        f"out of memory with mini-batches of one text and batch size {options.batch_size}: lower "
        f"--batch-size or --max-length"
    )
