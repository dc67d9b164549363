"""Alignments: how one size is pulled towards another. Pure functions of the vectors of both."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from matryoshka2d.losses.objectives.distillation import batch_similarity_kl
from matryoshka2d.losses.objectives.similarity import cosine_matrix, logits_kl
from matryoshka2d.losses.strategies.base import Columns
from matryoshka2d.options import NotNegative, Positive, options


@options
class CoordinateKL:
    """KL(softmax teacher ‖ softmax student) over the coordinates of each vector, averaged over texts.

    Both sides must have the same dims. On vectors of unit length the softmax is nearly flat and the
    divergence nearly zero, so take vectors from before any normalization, or a low temperature.

    Parameters
    ----------
    temperature
        Divides the coordinates before the softmax, default 1.
    in_softmax
        Set false to leave the temperature out of the softmax, as the STS code of Starbucks does; it
        then only acts through `times_temperature`.
    times_temperature
        Multiply the divergence by the temperature, default false.

    References
    ----------
    2DMSE, arXiv 2402.14776.

    Examples
    --------
    >>> vectors = [torch.tensor([[1.0, 2.0]])]
    >>> CoordinateKL()(vectors, vectors).item()
    0.0
    >>> round(CoordinateKL()(vectors, [torch.tensor([[2.0, 1.0]])]).item(), 3)
    0.462
    """

    stacks: ClassVar[bool] = True
    temperature: Positive = 1.0
    in_softmax: bool = True
    times_temperature: bool = False

    def __call__(self, student: Columns, teacher: Columns) -> Tensor:
        """Return the divergence of float tensors [batch, dims], one a column."""
        divisor = self.temperature if self.in_softmax else 1.0
        factor = self.temperature if self.times_temperature else 1.0
        return factor * logits_kl(_texts(student) / divisor, _texts(teacher) / divisor)


@options
class SimilarityKL:
    """KL(teacher ‖ student) between in-batch similarities, averaged over rows.

    The similarities are cosines: of each anchor (the first column) to all texts of the other columns, or,
    with a single column or `all_pairs`, of each text to all other texts. Student and teacher may differ in
    dims, and vectors of unit length lose nothing.

    Parameters
    ----------
    temperature
        Divides the cosines before the softmax, default 0.05. Raise it to match the whole ranking,
        lower it to match the nearest neighbors only.
    all_pairs
        Compare each text of any column with all other texts, default false: only anchors with the other
        columns. Three columns then give nine times the similarities to learn from, at little cost.

    References
    ----------
    Starbucks, arXiv 2410.13230 (its retrieval code); SEED, arXiv 2101.04731.

    Examples
    --------
    >>> anchors, positives = torch.eye(2), torch.eye(2)
    >>> SimilarityKL()([anchors, positives], [3 * anchors, positives]).item()
    0.0
    >>> round(SimilarityKL()([anchors, positives], [anchors, positives.flip(0)]).item(), 3)
    20.0
    """

    stacks: ClassVar[bool] = True
    temperature: Positive = 0.05
    all_pairs: bool = False

    def __call__(self, student: Columns, teacher: Columns) -> Tensor:
        """Return the divergence of float tensors [batch, dims], one a column."""
        if len(student) == 1 or self.all_pairs:
            return batch_similarity_kl(torch.cat(list(student)), torch.cat(list(teacher)), self.temperature)
        ours, theirs = (cosine_matrix(side[0], torch.cat(list(side[1:]))) for side in (student, teacher))
        return logits_kl(ours / self.temperature, theirs / self.temperature)


@options
class PcaTarget:
    """MSE plus temperature * KL between cut vectors and the full vectors compressed to as many dims.

    The compression of all texts X [texts, D] is ``X U S`` with U S from a rank-d SVD of
    ``softmax(XᵀX / √D)``; no gradient flows through it. An SVD leaves the sign of each column of U open,
    and a random one would pull a coordinate to and fro: the largest entry of each column is made positive.

    Parameters
    ----------
    temperature
        Divides the coordinates before the softmax of the KL and multiplies it, default 1. Set 0 for no KL.
    mse_weight
        Weight of the mean squared error, default 1.
    exact
        Take the full SVD, default false: the low-rank one is much faster and draws from torch's global
        generator. Set it to compare runs bit for bit.

    References
    ----------
    ESE, arXiv 2402.14776v2 (ICLR 2025).

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> full = torch.randn(6, 4)
    >>> PcaTarget()([full[:, :2]], [full]).item() > 0
    True
    """

    temperature: NotNegative = 1.0
    mse_weight: NotNegative = 1.0
    exact: bool = False

    def __call__(self, student: Columns, teacher: Columns) -> Tensor:
        """Return the loss of a student [batch, d] against a teacher [batch, D], one each a column."""
        cut = _texts(student)
        target = pca_compress(_texts(teacher), cut.shape[-1], self.exact).to(cut.dtype)
        loss = self.mse_weight * F.mse_loss(cut, target)
        if self.temperature:
            loss = loss + CoordinateKL(self.temperature, times_temperature=True)([cut], [target])
        return loss


@torch.no_grad()
def pca_compress(vectors: Tensor, dims: int, exact: bool = False) -> Tensor:
    """Return vectors [texts, D] compressed to [texts, dims]: ``X U S`` of `PcaTarget`."""
    with torch.autocast(vectors.device.type, enabled=False):  # an SVD has no half precision
        wide = vectors if vectors.dtype == torch.float64 else vectors.float()
        affinity = F.softmax(wide.T @ wide / math.sqrt(wide.shape[-1]), dim=-1)
        left, strength = _leading_svd(affinity, dims, exact)
        largest = left.gather(0, left.abs().argmax(dim=0, keepdim=True))
        return wide @ (left * largest.sign() * strength)


def _leading_svd(matrix: Tensor, rank: int, exact: bool) -> tuple[Tensor, Tensor]:
    if exact:
        left, strength, _ = torch.linalg.svd(matrix)
    else:
        left, strength, _ = torch.svd_lowrank(matrix, q=rank)
    return left[:, :rank], strength[:rank]


def _texts(columns: Columns) -> Tensor:
    """Stack the columns: [batch * columns, dims], in float32 or wider."""
    texts = torch.cat(list(columns))
    return texts.float() if texts.dtype in (torch.float16, torch.bfloat16) else texts
