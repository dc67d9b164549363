"""CoSENT: the pair with the higher score must have the higher cosine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from matryoshka2d.losses.objectives.base import Columns, DataFormat, check_format
from matryoshka2d.losses.objectives.similarity import pairwise_cosine
from matryoshka2d.options import require_positive


@dataclass(frozen=True)
class CoSENT:
    """CoSENT: pairs with a higher score must have a higher cosine; for pairs with scores.

    ``log(1 + sum exp(scale * (cos_i - cos_j)))`` over all pairs of pairs with ``label_i < label_j``.
    Equal to `CoSENTLoss` of sentence-transformers.

    Parameters
    ----------
    scale
        Inverse temperature, default 20. Raise it when labels are many and fine, lower it when they are noisy.

    Raises
    ------
    UserError
        If `scale` is not above 0, or the batch is not 2 columns and one label a pair.

    References
    ----------
    Huang et al. 2024, CoSENT: Consistent Sentence Embedding via Similarity Ranking, IEEE/ACM TASLP.

    Examples
    --------
    >>> left, right = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> wrong = CoSENT()([left, right], torch.tensor([0.0, 1.0]))
    >>> right_way_round = CoSENT()([left, right], torch.tensor([1.0, 0.0]))
    >>> round(wrong.item(), 3), round(right_way_round.item(), 3)
    (20.0, 0.0)
    """

    formats: ClassVar[frozenset[DataFormat]] = frozenset({DataFormat.SCORED_PAIRS})
    needs_teacher: ClassVar[bool] = False
    scale: float = 20.0

    def __post_init__(self) -> None:
        require_positive(self, "scale")

    def check(self, columns: Columns, labels: Tensor | None) -> None:
        """Raise `UserError` unless there are 2 columns and one label a pair."""
        check_format("cosent", self.formats, columns, labels)

    def __call__(self, columns: Columns, labels: Tensor | None = None) -> Tensor:
        """Return the loss of two float tensors [batch, dims] and labels [batch]."""
        self.check(columns, labels)
        assert labels is not None
        return ranking_loss(pairwise_cosine(columns[0], columns[1]) * self.scale, labels)


def ranking_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return ``log(1 + sum exp(score_i - score_j))`` over all i, j with ``label_i < label_j``.

    Parameters
    ----------
    scores
        Float tensor [pairs].
    labels
        Tensor with as many numbers; only their order counts, and ties ask for nothing.
    """
    ranks = labels.flatten() if labels.is_floating_point() else labels.flatten().float()
    keys, order = (-ranks).sort(stable=True)
    ranked = scores[order]  # highest label first
    # The double sum factors into exp(score_i) times a running sum, which spares the [pairs, pairs] matrix.
    running = torch.cat([ranked.new_full((1,), -torch.inf), torch.logcumsumexp(-ranked, dim=0)])
    higher = torch.searchsorted(keys, keys)  # how many pairs have a strictly higher label
    return torch.cat([ranked.new_zeros(1), ranked + running[higher]]).logsumexp(dim=0)
