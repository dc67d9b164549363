"""Distillation: learn from a teacher's vectors, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from matryoshka2d.errors import UserError
from matryoshka2d.losses.gradient_cache import replayed
from matryoshka2d.losses.objectives.base import Columns, DataFormat, check_columns
from matryoshka2d.losses.objectives.similarity import logits_kl, pairwise_cosine, unit, without_own
from matryoshka2d.options import require, require_not_negative, require_positive

TEXTS_AT_ONCE = 512
"""More texts than usual batches have, few enough that their similarities to thousands of others are small.

Up to so many texts no part of a loss runs again in the backward pass, so that `torch.vmap` can run it.
"""


@dataclass(frozen=True)
class Distillation:
    """Distillation: give texts the similarities that a teacher gives them; for text without labels.

    ``similarity_weight * KL + vector_weight * mean(1 - cos(student, teacher cut to d))``. The KL goes from
    the teacher's to the student's distribution of each text over all other texts of the batch, of all
    columns: a softmax of cosines over `temperature`. It needs no common space, so the teacher may have any
    width.

    Parameters
    ----------
    similarity_weight
        Weight of the similarities, default 1. Set 0 to match vectors only.
    vector_weight
        Weight of the vectors, default 1; without `match_vectors` it does nothing.
    match_vectors
        Pull each vector towards the first dims of the teacher's own, default false. Set it when the
        student is to be used with an index that the teacher built, or is a smaller copy of it. A size that
        is wider than the teacher has no such target and learns from the similarities alone.
    temperature
        Temperature of the similarities, default 0.05. Raise it when the teacher's cosines differ
        widely, lower it when they all lie close together.

    Raises
    ------
    UserError
        If a weight is negative, the temperature is not above 0, or the teacher's vectors are missing
        or do not fit the columns.

    References
    ----------
    Tian et al. 2020, arXiv 1910.10699, and Fang et al. 2021 (SEED), arXiv 2101.04731, for distilling
    similarities; Reimers and Gurevych 2020, arXiv 2004.09813, for matching vectors.

    Examples
    --------
    >>> teacher = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    >>> Distillation()([2 * teacher], teacher).item() < 1e-6
    True
    >>> round(Distillation(similarity_weight=0, match_vectors=True)([-teacher[:, :2]], teacher).item(), 3)
    2.0
    """

    formats: ClassVar[frozenset[DataFormat]] = frozenset({DataFormat.TEXT})
    needs_teacher: ClassVar[bool] = True
    stacks: ClassVar[bool] = True
    similarity_weight: float = 1.0
    vector_weight: float = 1.0
    match_vectors: bool = False
    temperature: float = 0.05

    def __post_init__(self) -> None:
        require_not_negative(self, "similarity_weight", "vector_weight")
        require_positive(self, "temperature")
        vectors = self.vector_weight if self.match_vectors else 0
        require(
            self.similarity_weight + vectors > 0,
            "distillation has nothing to learn: set similarity_weight, or match_vectors and vector_weight",
        )

    def check(self, columns: Columns, labels: Tensor | None) -> None:
        """Raise `UserError` unless the labels hold a teacher's vector for every text."""
        check_columns("distillation", columns)
        if labels is None:
            raise UserError("distillation was given no labels: it takes the teacher's vectors as labels")
        texts = (len(columns[0]), len(columns))
        fits = labels.ndim == 3 and tuple(labels.shape[:2]) == texts
        fits = fits or (labels.ndim == 2 and (len(labels), 1) == texts)
        if not fits:
            raise UserError(
                f"distillation was given teacher vectors of shape {tuple(labels.shape)} for {texts[0]} rows "
                f"of {texts[1]} columns: expected [batch, columns, dims], or [batch, dims] for one column"
            )

    def __call__(self, columns: Columns, labels: Tensor | None = None) -> Tensor:
        """Return the loss of float tensors [batch, d] and teacher's vectors [batch, (columns,) T]."""
        self.check(columns, labels)
        assert labels is not None
        student = torch.cat(list(columns))
        teacher = labels.detach().view(len(columns[0]), len(columns), -1).transpose(0, 1).flatten(0, 1)
        loss = student.new_zeros(())
        if self.similarity_weight:
            loss = loss + self.similarity_weight * batch_similarity_kl(student, teacher, self.temperature)
        if self.match_vectors and teacher.shape[-1] >= student.shape[-1]:
            target = teacher[:, : student.shape[-1]]
            loss = loss + self.vector_weight * (1 - pairwise_cosine(student, target)).mean()
        return loss


def batch_similarity_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the KL of every text's similarities to all other texts, from teacher to student, averaged.

    A large batch is compared in blocks of texts, which are computed again in the backward pass: memory then
    grows with the number of texts, not with its square.

    Parameters
    ----------
    student, teacher
        Float tensors [texts, d] and [texts, T], rows in the same order; widths may differ.
    temperature
        Divides the cosines before the softmax.
    """
    ours, theirs = unit(student), unit(teacher)
    starts = range(0, len(ours), TEXTS_AT_ONCE)
    divergence = _divergence_of_texts if len(starts) == 1 else replayed(_divergence_of_texts)
    return torch.stack([divergence(ours, theirs, start, temperature) for start in starts]).sum() / len(ours)


def _divergence_of_texts(ours: Tensor, theirs: Tensor, start: int, temperature: float) -> Tensor:
    """Return the sum over one block of texts of the KL of their similarities to all others."""
    block = slice(start, start + TEXTS_AT_ONCE)
    student, teacher = (without_own(side[block] @ side.T, start) / temperature for side in (ours, theirs))
    return logits_kl(student, teacher) * len(student)
