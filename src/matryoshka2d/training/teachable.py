"""Whether the batches of a data set have anything to teach: a loss that no vector can change says nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from datasets import Dataset
from torch import Tensor

from matryoshka2d.data import SCORE, text_columns
from matryoshka2d.errors import UserError
from matryoshka2d.losses.objectives import Objective
from matryoshka2d.training import distributed as ranks

_LABEL = "label"
_DIMS = 8


def check_teaches(
    name: str, rows: Dataset, objective: Objective, batches: Sequence[Sequence[int]], *, quiet: bool
) -> None:
    """Say whether the batches of a data set have a gradient, and refuse scores that teach nothing.

    A warning says so where every batch holds one row, and the objective compares rows; a note where most do.

    Parameters
    ----------
    name
        What messages call the data set; empty where it is the only one.
    rows
        Its rows, with the labels that the loss reads.
    objective
        What is learnt from it.
    batches
        The rows of each batch of an epoch.
    quiet
        Whether to keep the note to oneself.

    Raises
    ------
    UserError
        If all scores of every batch are the same, and the objective compares scores.
    """
    if not batches:
        return
    what, of_it = type(objective).__name__, f" of '{name}'" if name else ""
    alone = [batch for batch in batches if len(batch) == 1]
    first = next((batch for batch in batches if _teaches(objective, rows, batch)), None)
    why = (
        f"{len(alone)} of {len(batches)} batches{of_it} hold one row (rows that share a text or a group "
        "never stand in the same one)"
    )
    if first is None and len(alone) < len(batches) and _scores(rows, batches[0]) is not None:
        raise UserError(
            f"no batch{of_it} holds two different scores, and {what} learns from their differences: there "
            "would be nothing to learn; give rows of different scores, or texts alone with --objective "
            "distillation"
        )
    if first is None:
        # Said in any case: such a run does nothing but to shrink weights a little.
        if ranks.is_first():
            few = why if len(alone) == len(batches) else f"the batches{of_it} are too small"
            print(
                f"warning: {few}, and {what} learns from the other rows of a batch: there is nothing to "
                "learn; give more rows, of different texts",
                file=sys.stderr,
            )
        return
    if 2 * len(alone) > len(batches) and not quiet:
        print(f"note: {why}: they have no negatives of other rows", file=sys.stderr)


def _teaches(objective: Objective, rows: Dataset, batch: Sequence[int]) -> bool:
    """Return whether the loss of a batch has a gradient at random vectors."""
    columns = len(text_columns(rows.column_names, labels=(SCORE, _LABEL)))
    chance = torch.Generator().manual_seed(0)
    vectors = torch.randn(columns, len(batch), _DIMS, generator=chance).requires_grad_()
    labels: Tensor | None = None
    if objective.needs_teacher:
        labels = torch.randn(len(batch), columns, _DIMS, generator=chance)
    else:
        labels = _scores(rows, batch)
    with torch.enable_grad():
        loss = objective(list(vectors), labels)
    if not loss.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(loss, vectors)
    return bool(gradient.any())


def _scores(rows: Dataset, batch: Sequence[int]) -> Tensor | None:
    """Return the scores of a batch, which with a teacher stand before the number of the row."""
    if SCORE in rows.column_names:
        return torch.tensor(rows[list(batch)][SCORE], dtype=torch.float32)
    found = rows[list(batch)][_LABEL] if _LABEL in rows.column_names else [0]
    return torch.tensor(found, dtype=torch.float32)[:, 0] if isinstance(found[0], list) else None
