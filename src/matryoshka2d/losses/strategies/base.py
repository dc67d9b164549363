"""What one training step is made of: objective terms at sizes, and alignments between sizes.

A strategy decides, for every step, which sizes the objective is computed on, with which weights, and
which sizes are pulled towards which others. It says so with a `StepPlan` and computes nothing itself:
`ElasticLoss` reads every exit from one pass of the encoder and carries the plan out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Columns = Sequence[Tensor]
"""The vectors of a batch at one size: a float tensor [batch, dims] for every text column."""


@dataclass(frozen=True)
class Shape:
    """Depth and full width of the model that is trained, and whether a frozen teacher is at hand."""

    layers: int
    dims: int
    has_teacher: bool = False


@dataclass(frozen=True)
class Term:
    """``weight * objective`` at one exit, cut to `dims`.

    `layers` may be 0, the output of the embedding table, which is no size that a user can ask for.
    `documents` names another exit at which the documents are read, detached, while the queries stay at
    `layers`: see `matryoshka2d.losses.strategies.cross_exit`. None reads all texts at one exit.
    """

    layers: int
    dims: int
    weight: float = 1.0
    documents: int | None = None


class Alignment(Protocol):
    """A pure function of the vectors of a student and of a teacher size → a scalar loss.

    With ``stacks = True`` it runs under ``torch.vmap``, as an objective may say too.
    """

    def __call__(self, student: Columns, teacher: Columns) -> Tensor: ...


@dataclass(frozen=True)
class Pull:
    """``weight * alignment(student, teacher)``: one exit, cut to `dims`, pulled towards another.

    A `teacher` of None is the frozen teacher of the run: its vectors at their own full width, which only
    an alignment of similarities can compare with a narrower student. `detach` stops the gradient at the
    teacher. `as_output` hands both sides over as the model itself returns them (unit length for a model
    that ends in a Normalize module) instead of as they come out of the pooling and the later modules,
    before any final normalization. `documents` is as in `Term`.
    """

    student: tuple[int, int]
    teacher: tuple[int, int] | None
    alignment: Alignment
    weight: float = 1.0
    detach: bool = True
    as_output: bool = False
    documents: int | None = None


@dataclass(frozen=True)
class StepPlan:
    """Everything that one step trains; the loss of the step is the sum of all terms and pulls."""

    terms: tuple[Term, ...]
    pulls: tuple[Pull, ...] = ()

    def layers(self) -> tuple[int, ...]:
        """Return the exits that the step reads, shallowest first."""
        read = {term.layers for term in self.terms}
        read |= {pull.student[0] for pull in self.pulls}
        read |= {pull.teacher[0] for pull in self.pulls if pull.teacher is not None}
        read |= {term.documents for term in self.terms if term.documents is not None}
        read |= {pull.documents for pull in self.pulls if pull.documents is not None}
        return tuple(sorted(read))

    @property
    def needs_teacher(self) -> bool:
        """Whether a pull is towards the frozen teacher of the run."""
        return any(pull.teacher is None for pull in self.pulls)


class StepRandom(random.Random):
    """The chance of one step: a function of the seed and of the step's number, which it also tells.

    Parameters
    ----------
    seed
        Seed of the run.
    step
        Number of the step, from 0.
    """

    def __new__(cls, seed: int, step: int) -> StepRandom:  # noqa: ARG004
        """Make the generator; `random.Random` would take the arguments for its own."""
        return super().__new__(cls)

    def __init__(self, seed: int, step: int) -> None:
        super().__init__(f"{seed}/{step}")
        self.step = step


class Strategy(Protocol):
    """Which sizes a step trains."""

    def plan(self, shape: Shape, rng: random.Random) -> StepPlan:
        """Return the plan of one step; all chance comes from `rng`, so a seed and a step fix it."""
        ...
