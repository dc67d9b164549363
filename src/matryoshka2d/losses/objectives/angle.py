"""AnglE: cosine ranking, in-batch negatives and angle difference in complex space, weighted and summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from matryoshka2d.errors import UserError
from matryoshka2d.losses.objectives.base import Columns, DataFormat, check_format
from matryoshka2d.losses.objectives.cosent import ranking_loss
from matryoshka2d.losses.objectives.infonce import in_batch_negatives
from matryoshka2d.losses.objectives.similarity import (
    check_halves,
    cosine_matrix,
    pairwise_angle,
    pairwise_cosine,
)
from matryoshka2d.options import require, require_not_negative, require_positive


@dataclass(frozen=True)
class AnglE:
    """AnglE: angle difference in complex space plus in-batch negatives; for scored pairs and triplets.

    ``cosine_weight * cosine + ibn_weight * in-batch negatives + angle_weight * angle``. The cosine and
    the angle term are both CoSENT's ranking, of cosines and of AnglE's scores (a vector is split in a real
    and an imaginary half after the cut). A triplet becomes the pair (anchor, positive) with label 1 and,
    for every negative, the pair (anchor, negative) with label 0.

    The in-batch negatives depend on the data. Triplets and positive pairs: InfoNCE with all hard negatives.
    Scored pairs: every text of a pair whose label reaches `positive_label` must find its partner among
    all other texts of the batch, averaged over all texts. Positive pairs have this term only.

    With the weights 0, 0, 1 it equals `AnglELoss` of sentence-transformers.

    Parameters
    ----------
    cosine_weight
        Weight of the cosine ranking, default 0. Raise it, to 1, for data with many distinct scores.
    ibn_weight
        Weight of the in-batch negatives, default 30, the published value for NLI triplets. Use 1 or less
        for scored pairs, where few pairs are true positives.
    angle_weight
        Weight of the angle ranking, default 1. Set 0 to allow an odd number of dims.
    cosine_tau, ibn_tau, angle_tau
        Inverse temperature of each term, default 20. Change them as you would the scale of InfoNCE or CoSENT.
    positive_label
        Score from which a pair counts as a true match for the in-batch negatives, default 1. Lower it,
        to 0.8, when scores in 0..1 rarely reach 1; set it to the top of the scale when they run 0..5.

    Raises
    ------
    UserError
        If a weight is negative, a tau is not above 0, the batch has another form, or the dims are odd.

    References
    ----------
    Li and Li 2023, AnglE-optimized Text Embeddings, arXiv 2309.12871.

    Examples
    --------
    >>> anchors = torch.eye(4)
    >>> loss = AnglE()([anchors, anchors, -anchors])
    >>> round(loss.item(), 3)
    2.833
    """

    formats: ClassVar[frozenset[DataFormat]] = frozenset(
        {DataFormat.SCORED_PAIRS, DataFormat.POSITIVE_PAIRS, DataFormat.TRIPLETS}
    )
    needs_teacher: ClassVar[bool] = False
    cosine_weight: float = 0.0
    ibn_weight: float = 30.0
    angle_weight: float = 1.0
    cosine_tau: float = 20.0
    ibn_tau: float = 20.0
    angle_tau: float = 20.0
    positive_label: float = 1.0

    def __post_init__(self) -> None:
        require_not_negative(self, "cosine_weight", "ibn_weight", "angle_weight")
        require_positive(self, "cosine_tau", "ibn_tau", "angle_tau")
        total = self.cosine_weight + self.ibn_weight + self.angle_weight
        require(total > 0, "all weights of AnglE are 0: set at least one of them above 0")

    def check(self, columns: Columns, labels: Tensor | None) -> None:
        """Raise `UserError` unless these are scored pairs, positive pairs or triplets, with even dims."""
        form = check_format("angle", self.formats, columns, labels)
        if form is DataFormat.POSITIVE_PAIRS and not self.ibn_weight:
            raise UserError(
                "angle on pairs without labels has only in-batch negatives: set ibn_weight above 0"
            )
        if self.angle_weight:
            check_halves(columns[0].shape[-1])

    def __call__(self, columns: Columns, labels: Tensor | None = None) -> Tensor:
        """Return the loss of float tensors [batch, dims] and, for scored pairs, labels [batch]."""
        self.check(columns, labels)
        left, right, scores = _as_pairs(columns, labels)
        loss = left.new_zeros(())
        if self.cosine_weight:
            loss = loss + self.cosine_weight * ranking_loss(
                pairwise_cosine(left, right) * self.cosine_tau, scores
            )
        if self.ibn_weight:
            loss = loss + self.ibn_weight * self._in_batch_negatives(columns, labels)
        if self.angle_weight:
            loss = loss + self.angle_weight * ranking_loss(
                pairwise_angle(left, right) * self.angle_tau, scores
            )
        return loss

    def _in_batch_negatives(self, columns: Columns, labels: Tensor | None) -> Tensor:
        if labels is None:
            return in_batch_negatives(columns, self.ibn_tau)
        positive = labels.flatten() >= self.positive_label
        return partner_loss(columns[0], columns[1], positive, self.ibn_tau)


def partner_loss(left: Tensor, right: Tensor, positive: Tensor, scale: float) -> Tensor:
    """Return the cross-entropy of every text of a positive pair with its partner among all other texts.

    Parameters
    ----------
    left, right
        Float tensors [batch, dims].
    positive
        Boolean tensor [batch]; texts of the other pairs only serve as candidates.
    scale
        Inverse temperature of the cosines.

    Returns
    -------
    Tensor
        The sum over the texts of positive pairs divided by the number of all texts, ``2 * batch``.
    """
    texts = torch.cat([left, right])
    batch, total = len(left), len(texts)
    logits = cosine_matrix(texts, texts) * scale
    logits = logits.masked_fill(torch.eye(total, dtype=torch.bool, device=logits.device), -torch.inf)
    partner = torch.arange(total, device=logits.device).roll(batch)
    losses = logits.logsumexp(dim=1) - logits.gather(1, partner[:, None]).squeeze(1)
    return (losses * positive.repeat(2)).sum() / total


def _as_pairs(columns: Columns, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return pairs and their labels: (anchor, positive) has 1 and (anchor, negative) has 0."""
    anchors, others = columns[0], columns[1:]
    if labels is None:
        labels = torch.zeros(len(anchors) * len(others), device=anchors.device)
        labels[: len(anchors)] = 1
    return anchors.repeat(len(others), 1), torch.cat(list(others)), labels
