"""What one step computes: the terms and pulls of a plan, carried out on the vectors of the exits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from matryoshka2d.objectives import Objective
from matryoshka2d.strategies.base import Alignment, Columns, Pull, StepPlan, Term


class LossPart(NamedTuple):
    """Terms or pulls of a step that are alike but for their exit; often a single one.

    Parameters
    ----------
    names
        What they are and at which size, as ``loss/3x128``.
    weight
        What each of them weighs in the loss of the step.
    values
        Float [names], without the weight, so that sizes can be compared.
    """

    names: tuple[str, ...]
    weight: float
    values: Tensor

    def total(self) -> Tensor:
        """Return what they add to the loss of the step: a float scalar."""
        return self.weight * self.values.sum()


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of scalars, in their order."""
    first, *others = terms
    return sum(others, start=first)


def loss_parts(
    plan: StepPlan,
    exits: Mapping[int, Columns],
    objective: Objective,
    labels: Tensor | None,
    normalised_output: bool,
    taught: Columns | None = None,
    *,
    together: bool = False,
) -> Iterator[LossPart]:
    """Carry a plan out on vectors, one part after the other.

    Parameters
    ----------
    plan
        The terms and pulls of the step.
    exits
        layer → one float tensor [batch, width] per column, neither cut nor normalised.
    objective, labels
        What is computed at every term.
    normalised_output
        Whether the model itself returns unit vectors; pulls marked `as_output` then see those.
    taught
        The frozen teacher's vectors, float [batch, its width] per column; for pulls towards it.
    together
        Compute what differs in its exit alone at once: the same values to rounding, from a fraction of the
        kernels, which is what a small batch on a GPU waits for. It takes the memory of all of them.

    Yields
    ------
    LossPart
        The terms, then the pulls, in the order of the plan but for those that are computed together.
    """
    stack = _Stack(exits)
    for terms in _alike(plan.terms, lambda _: together and _stacks(objective), _term_kind):
        students = stack.columns([(term.layers, term.documents) for term in terms])
        values = _values(lambda *columns: objective(columns, labels), _prefix(students, terms[0].dims))
        yield LossPart(tuple(_name("loss", term) for term in terms), terms[0].weight, values)
    for pulls in _alike(plan.pulls, lambda one: together and _stacks(one.alignment), _pull_kind):
        pull = pulls[0]
        students = stack.columns([(one.student[0], one.documents) for one in pulls])
        teacher = _teacher_of(pull, exits, taught)
        if pull.as_output and normalised_output:
            students, teacher = _unit(students), _unit(teacher)
        if pull.teacher is not None:
            teacher = _prefix(teacher, pull.teacher[1])
        aligned = partial(_aligned, pull.alignment, teacher)
        values = _values(aligned, _prefix(students, pull.student[1]))
        yield LossPart(tuple(_name("alignment", one) for one in pulls), pull.weight, values)


Part = TypeVar("Part", Term, Pull)


def _alike(
    parts: Iterable[Part], stacks: Callable[[Part], bool], kind: Callable[[Part], Any]
) -> list[list[Part]]:
    """Return the parts that stack in groups of the same kind, and any other by itself."""
    groups: dict[Any, list[Part]] = {}
    for place, part in enumerate(parts):
        groups.setdefault(kind(part) if stacks(part) else place, []).append(part)
    return list(groups.values())


def _term_kind(term: Term) -> Any:
    return term.dims, term.weight


def _pull_kind(pull: Pull) -> Any:
    return pull.student[1], pull.teacher, pull.alignment, pull.weight, pull.detach, pull.as_output


def _stacks(function: Any) -> bool:
    return bool(getattr(function, "stacks", False))


class _Stack:
    """The columns of several exits on top of each other, made once for all widths that are cut of them."""

    def __init__(self, exits: Mapping[int, Columns]) -> None:
        self.exits = exits
        self.made: dict[tuple[tuple[int, int | None], ...], Columns] = {}

    def columns(self, read: Sequence[tuple[int, int | None]]) -> Columns:
        """Return float [exits, batch, width] for every column, of exits and those their documents are of."""
        key = tuple(read)
        if key not in self.made:
            columns = [_columns(self.exits, *one) for one in key]
            self.made[key] = [torch.stack(column) for column in zip(*columns, strict=True)]
        return self.made[key]


def _values(function: Callable[..., Tensor], columns: Columns) -> Tensor:
    """Return the value of a function of columns for each of the exits that are stacked: float [exits]."""
    if len(columns[0]) == 1:
        return function(*(column[0] for column in columns))[None]
    values: Tensor = torch.vmap(function)(*columns)
    return values


def _aligned(alignment: Alignment, teacher: Columns, *student: Tensor) -> Tensor:
    return alignment(student, teacher)


def _name(kind: str, part: Term | Pull) -> str:
    """Name a part for logs: ``loss/3x128``, or ``cross_exit_loss/3x128`` over documents of another exit."""
    layers, dims = (part.layers, part.dims) if isinstance(part, Term) else part.student
    return f"{'' if part.documents is None else 'cross_exit_'}{kind}/{layers}x{dims}"


def _columns(exits: Mapping[int, Columns], layers: int, documents: int | None) -> Columns:
    """Return the columns of an exit, or its queries with the documents of another one, detached."""
    if documents is None:
        return exits[layers]
    queries, others = exits[layers], [column.detach() for column in exits[documents]]
    if len(queries) > 1:
        return [queries[0], *others[1:]]
    # Texts without a counterpart: every other one is a document.
    is_query = torch.arange(len(queries[0]), device=queries[0].device) % 2 == 0
    return [torch.where(is_query[:, None], queries[0], others[0])]


def _teacher_of(pull: Pull, exits: Mapping[int, Columns], taught: Columns | None) -> Columns:
    """Return the vectors that a pull goes towards, at their full width."""
    if pull.teacher is None:
        assert taught is not None, "the plan asks for a teacher that the run does not have"
        return taught
    columns = exits[pull.teacher[0]]
    return [column.detach() for column in columns] if pull.detach else columns


def _prefix(columns: Columns, dims: int) -> list[Tensor]:
    return [column[..., :dims] for column in columns]


def _unit(columns: Columns) -> list[Tensor]:
    return [nn.functional.normalize(column, dim=-1) for column in columns]
