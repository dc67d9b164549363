"""InfoNCE: the own positive must be nearer than every other text of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from matryoshka2d.losses.objectives.base import Columns, DataFormat, check_format
from matryoshka2d.losses.objectives.similarity import cosine_matrix
from matryoshka2d.options import require_positive


@dataclass(frozen=True)
class InfoNCE:
    """InfoNCE: each anchor's positive against all other positives and hard negatives of the batch.

    Cross-entropy of ``scale * cos(anchor, candidate)`` over the positives and hard negatives of all rows.
    Equal to `MultipleNegativesRankingLoss` of sentence-transformers. A larger batch is a harder, better task.

    Parameters
    ----------
    scale
        Inverse temperature, default 20 (temperature 0.05). Raise it, up to 100, for large clean
        retrieval sets; lower it when many texts of a batch are true matches of each other.

    Raises
    ------
    UserError
        If `scale` is not above 0, there are fewer than 2 columns, or there are labels.

    References
    ----------
    van den Oord et al. 2018, arXiv 1807.03748; Henderson et al. 2017, arXiv 1705.00652.

    Examples
    --------
    >>> texts = torch.eye(3)
    >>> round(InfoNCE()([texts, texts]).item(), 6)
    0.0
    >>> round(InfoNCE()([texts, texts, texts]).item(), 3)  # each negative is its own anchor
    0.693
    """

    formats: ClassVar[frozenset[DataFormat]] = frozenset({DataFormat.POSITIVE_PAIRS, DataFormat.TRIPLETS})
    needs_teacher: ClassVar[bool] = False
    stacks: ClassVar[bool] = True
    scale: float = 20.0

    def __post_init__(self) -> None:
        require_positive(self, "scale")

    def check(self, columns: Columns, labels: Tensor | None) -> None:
        """Raise `UserError` unless there are an anchor and a positive column and no labels."""
        check_format("infonce", self.formats, columns, labels)

    def __call__(self, columns: Columns, labels: Tensor | None = None) -> Tensor:
        """Return the loss of anchors, positives and any hard negatives, each a float tensor [batch, dims]."""
        self.check(columns, labels)
        return in_batch_negatives(columns, self.scale)


def in_batch_negatives(columns: Columns, scale: float) -> Tensor:
    """Return the cross-entropy of every anchor with its positive among all texts of the later columns.

    Parameters
    ----------
    columns
        Anchors, positives and any number of negatives, each a float tensor [batch, dims].
    scale
        Inverse temperature of the cosines.
    """
    anchors, candidates = columns[0], torch.cat(list(columns[1:]))
    own = torch.arange(len(anchors), device=anchors.device)
    return F.cross_entropy(cosine_matrix(anchors, candidates) * scale, own)
