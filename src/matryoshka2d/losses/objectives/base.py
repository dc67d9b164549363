"""What an objective is, which data it takes, and how it says that it was given something else."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Protocol

from torch import Tensor

from matryoshka2d.errors import UserError

Columns = Sequence[Tensor]
"""The vectors of a batch: a float tensor [batch, dims] for every text column, cut but not normalized."""


class DataFormat(StrEnum):
    """The forms that training data comes in.

    >>> DataFormat("triplets").needs
    '3 or more text columns (anchor, positive, negative ...) and no labels'
    """

    SCORED_PAIRS = "scored-pairs"
    POSITIVE_PAIRS = "positive-pairs"
    TRIPLETS = "triplets"
    TEXT = "text"

    @property
    def needs(self) -> str:
        """Say in words what a batch of this form holds."""
        return _NEEDS[self]


_NEEDS = {
    DataFormat.SCORED_PAIRS: "2 text columns and one float label a pair",
    DataFormat.POSITIVE_PAIRS: "2 text columns (anchor, positive) and no labels",
    DataFormat.TRIPLETS: "3 or more text columns (anchor, positive, negative ...) and no labels",
    DataFormat.TEXT: "1 or more text columns and the teacher's vectors as labels",
}


class Objective(Protocol):
    """Vectors of a batch, and its labels, → a scalar loss; a pure function.

    `formats` says which forms of data it takes, and `check` raises a one-line `UserError` for any
    other. `needs_teacher` says that the labels are a teacher's vectors. Every objective normalizes for
    itself, so it sees vectors that are cut and not normalized. One that also has ``stacks = True`` runs
    under ``torch.vmap``, so that all exits may be computed at once: operations on tensors alone, nothing
    that draws or looks at values.
    """

    formats: ClassVar[frozenset[DataFormat]]
    needs_teacher: ClassVar[bool]

    def check(self, columns: Columns, labels: Tensor | None) -> None:
        """Raise `UserError` if the batch has a form that this objective does not take."""
        ...

    def __call__(self, columns: Columns, labels: Tensor | None = None) -> Tensor:
        """Return the loss, a float scalar."""
        ...


def check_format(
    name: str, formats: frozenset[DataFormat], columns: Columns, labels: Tensor | None
) -> DataFormat:
    """Return the form of a batch that is not plain text, or say why the objective cannot take it.

    Parameters
    ----------
    name
        Name of the objective, for the message.
    formats
        The forms that it takes.
    columns
        Float tensors [batch, dims], all of one shape.
    labels
        Float tensor [batch], or none.

    Raises
    ------
    UserError
        If the columns differ in shape, the labels are not one a row, or the form is not taken.
    """
    check_columns(name, columns)
    found = _format(columns, labels)
    if found is None or found not in formats:
        taken = "; or ".join(form.needs for form in DataFormat if form in formats)
        given = "labels" if labels is not None else "no labels"
        raise UserError(f"{name} was given {len(columns)} text columns and {given}: it takes {taken}")
    if labels is not None and labels.numel() != len(columns[0]):
        raise UserError(
            f"{name} was given labels of shape {tuple(labels.shape)} for {len(columns[0])} pairs: "
            f"expected one number a pair"
        )
    return found


def check_columns(name: str, columns: Columns) -> None:
    """Raise `UserError` unless there are columns, all [batch, dims] and of one shape."""
    shapes = [tuple(column.shape) for column in columns]
    if not shapes or len(shapes[0]) != 2 or len(set(shapes)) != 1:
        raise UserError(
            f"{name} was given vectors of shapes {shapes}: expected [batch, dims], one shape for all"
        )


def _format(columns: Columns, labels: Tensor | None) -> DataFormat | None:
    if len(columns) == 2:
        return DataFormat.POSITIVE_PAIRS if labels is None else DataFormat.SCORED_PAIRS
    return DataFormat.TRIPLETS if len(columns) > 2 and labels is None else None
