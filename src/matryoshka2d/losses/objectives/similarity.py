"""Similarities of vectors, and the divergence between two sets of similarities.

Every function takes vectors that are cut and not yet normalized, and normalizes them itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from matryoshka2d.errors import UserError


def unit(vectors: Tensor) -> Tensor:
    """Return vectors [..., dims] scaled to unit length, in float32 or wider.

    >>> unit(torch.tensor([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    wide = vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
    return F.normalize(wide, dim=-1)


def pairwise_cosine(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine of every row of `left` with the same row of `right`: [batch]."""
    return (unit(left) * unit(right)).sum(dim=-1)


def cosine_matrix(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine of every row of `left` with every row of `right`: [rows, columns]."""
    return unit(left) @ unit(right).T


def pairwise_angle(left: Tensor, right: Tensor) -> Tensor:
    """Return AnglE's score of every row of `left` with the same row of `right`: [batch].

    Each vector is split in halves, the real and the imaginary part of a complex vector. The score is
    the absolute sum over both parts of ``z / w``, each complex vector scaled to unit length.

    Raises
    ------
    UserError
        If the number of dims is odd: there would be no halves.
    """
    check_halves(left.shape[-1])
    (a, b), (c, d) = unit(left).chunk(2, dim=-1), unit(right).chunk(2, dim=-1)
    real, imaginary = a * c + b * d, b * c - a * d
    return (real + imaginary).sum(dim=-1).abs()


def check_halves(dims: int) -> None:
    """Raise `UserError` unless a vector of that many dims has two halves."""
    if dims % 2:
        raise UserError(
            f"AnglE splits a vector in two halves, and {dims} dims is odd: use even dims, or angle_weight 0"
        )


def without_diagonal(matrix: Tensor) -> Tensor:
    """Return a square matrix [n, n] without its diagonal: [n, n - 1].

    >>> without_diagonal(torch.arange(9).view(3, 3)).tolist()
    [[1, 2], [3, 5], [6, 7]]
    """
    n = len(matrix)
    return matrix.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


def without_own(rows: Tensor, start: int) -> Tensor:
    """Return rows [rows, n] of a square matrix, from row `start` on, without its diagonal: [rows, n - 1].

    >>> without_own(torch.arange(9).view(3, 3)[1:], 1).tolist()
    [[3, 5], [6, 7]]
    """
    stop = start + len(rows)
    return torch.cat([rows[:, :start], without_diagonal(rows[:, start:stop]), rows[:, stop:]], dim=1)


def logits_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(softmax teacher ‖ softmax student), averaged over the rows of two [rows, n] tensors."""
    ours, theirs = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    # Written out: `F.kl_div` has no rule for `torch.vmap`, which would then go through the exits one by one.
    return (theirs.exp() * (theirs - ours)).sum() / len(student)
