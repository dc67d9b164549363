"""The processes of a run on several devices, started by torchrun or accelerate: ranks, from 0.

All of them do the same, so that all meet the same mistakes; the first one alone writes and speaks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import cast

from accelerate import PartialState
from sentence_transformers.util import get_device_name
from transformers import set_seed

from matryoshka2d.errors import UserError
from matryoshka2d.losses.all_gather import processes

# The first rank embeds for the teacher, judges on dev and writes while the others wait.
_PATIENCE = timedelta(hours=12)


def join(device: str | None) -> None:
    """Meet the other processes of the run, if a launcher started others.

    Parameters
    ----------
    device
        What the run was told to use, or None for the best there is.
    """
    on_cpu = (device or get_device_name()).startswith("cpu")
    PartialState(cpu=on_cpu, timeout=_PATIENCE)


def is_first() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return bool(PartialState().is_main_process)


def wait() -> None:
    """Wait until all processes are here."""
    PartialState().wait_for_everyone()


@contextlib.contextmanager
def first_alone() -> Iterator[bool]:
    """Give the first process time to write, which the others wait for; says whether this one is the first.

    >>> with first_alone() as writes:
    ...     writes
    True
    """
    yield is_first()
    wait()


def first_then_others() -> AbstractContextManager[None]:
    """Let the first process do it while the others wait, and then the others, which find what it wrote."""
    return cast(AbstractContextManager[None], PartialState().main_process_first())


def own_seed(seed: int) -> None:
    """Let every process draw dropout of its own; the first one draws what a single process would."""
    if not is_first():
        set_seed(seed + PartialState().process_index)


def check_batch_size(batch_size: int) -> None:
    """Raise a `UserError` unless every process gets as many rows of a batch as the others.

    >>> check_batch_size(7)
    """
    among = processes()
    if batch_size % among:
        fits = max(1, round(batch_size / among)) * among
        raise UserError(
            f"batch_size {batch_size} does not divide among {among} processes: it counts the rows of all of "
            f"them; choose a multiple of {among}, as --batch-size {fits}"
        )
