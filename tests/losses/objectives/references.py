"""The formulas of the objectives and alignments, written out in loops, importing nothing of the package."""

from __future__ import annotations

import torch
from torch import Tensor


def dot(x: Tensor, y: Tensor) -> Tensor:
    return sum((a * b for a, b in zip(x, y, strict=True)), torch.zeros((), dtype=x.dtype))


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return dot(x, y) / (dot(x, x).sqrt() * dot(y, y).sqrt())


def complex_score(x: Tensor, y: Tensor) -> Tensor:
    """Divide two complex vectors entry by entry, as the AnglE paper does, and sum both parts."""
    half = len(x) // 2
    squared, total = dot(y, y), torch.zeros((), dtype=x.dtype)
    for k in range(half):
        a, b, c, d = x[k], x[half + k], y[k], y[half + k]
        total = total + (a * c + b * d) / squared + (b * c - a * d) / squared
    return (total / (dot(x, x).sqrt() / squared.sqrt())).abs()


def ranking(scores: list[Tensor], labels: list[float], tau: float) -> Tensor:
    total = torch.ones((), dtype=scores[0].dtype)
    for low, low_label in zip(scores, labels, strict=True):
        for high, high_label in zip(scores, labels, strict=True):
            if low_label < high_label:
                total = total + torch.exp(tau * (low - high))
    return torch.log(total)


def infonce(columns: list[Tensor], scale: float) -> Tensor:
    anchors, candidates = columns[0], [row for column in columns[1:] for row in column]
    losses = []
    for own, anchor in enumerate(anchors):
        weights = [torch.exp(scale * cosine(anchor, candidate)) for candidate in candidates]
        losses.append(-torch.log(weights[own] / sum(weights)))
    return sum(losses) / len(losses)


def partners(left: Tensor, right: Tensor, labels: list[float], scale: float, positive: float) -> Tensor:
    """In-batch negatives of scored pairs: each text of a positive pair looks for its partner."""
    texts = [(row, 0, text) for row, text in enumerate(left)] + [
        (row, 1, text) for row, text in enumerate(right)
    ]
    total = torch.zeros((), dtype=left.dtype)
    for row, side, text in texts:
        if labels[row] < positive:
            continue
        others = [(r, s, torch.exp(scale * cosine(text, t))) for r, s, t in texts if (r, s) != (row, side)]
        (own,) = (weight for r, s, weight in others if r == row)
        total = total - torch.log(own / sum(weight for _, _, weight in others))
    return total / len(texts)


def angle(
    columns: list[Tensor],
    labels: list[float] | None,
    weights: tuple[float, float, float],
    taus: tuple[float, float, float],
    positive: float = 1.0,
) -> Tensor:
    """The weighted sum of cosine ranking, in-batch negatives and angle ranking."""
    pairs = [(a, b) for other in columns[1:] for a, b in zip(columns[0], other, strict=True)]
    rows = len(columns[0])
    scores = labels if labels is not None else [float(index < rows) for index in range(len(pairs))]
    if labels is None:
        in_batch = infonce(columns, taus[1])
    else:
        in_batch = partners(columns[0], columns[1], labels, taus[1], positive)
    return (
        weights[0] * ranking([cosine(a, b) for a, b in pairs], scores, taus[0])
        + weights[1] * in_batch
        + weights[2] * ranking([complex_score(a, b) for a, b in pairs], scores, taus[2])
    )


def softmax(values: list[Tensor]) -> list[Tensor]:
    powers = [torch.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def kl(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """KL(softmax teacher ‖ softmax student) of two lists of logits."""
    zipped = zip(softmax(teacher), softmax(student), strict=True)
    return sum(
        (p * (torch.log(p) - torch.log(q)) for p, q in zipped), torch.zeros((), dtype=teacher[0].dtype)
    )


def all_to_all_kl(student: list[Tensor], teacher: list[Tensor], temperature: float) -> Tensor:
    """Each text's cosines to all other texts, teacher against student."""
    total = []
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i]
        theirs = [cosine(teacher[i], teacher[j]) / temperature for j in others]
        ours = [cosine(student[i], student[j]) / temperature for j in others]
        total.append(kl(theirs, ours))
    return sum(total) / len(total)


def anchors_to_texts_kl(student: list[Tensor], teacher: list[Tensor], temperature: float) -> Tensor:
    """Each anchor's cosines to all texts of the other columns, teacher against student."""
    total = []
    for i in range(len(student[0])):
        theirs = [cosine(teacher[0][i], text) / temperature for column in teacher[1:] for text in column]
        ours = [cosine(student[0][i], text) / temperature for column in student[1:] for text in column]
        total.append(kl(theirs, ours))
    return sum(total) / len(total)


def coordinate_kl(student: list[Tensor], teacher: list[Tensor], divisor: float, factor: float) -> Tensor:
    """The KL over the coordinates of each text of each column."""
    pairs = [(s, t) for ss, ts in zip(student, teacher, strict=True) for s, t in zip(ss, ts, strict=True)]
    return factor * sum(kl(list(t / divisor), list(s / divisor)) for s, t in pairs) / len(pairs)


def distillation(
    columns: list[Tensor], teacher: Tensor, temperature: float, similarity: float, vector: float
) -> Tensor:
    """Similarities of all texts, plus vectors against the teacher's prefix; teacher [batch, columns, T]."""
    students = [row for column in columns for row in column]
    teachers = [teacher[row, c] for c in range(len(columns)) for row in range(len(teacher))]
    loss = similarity * all_to_all_kl(students, teachers, temperature)
    if vector:
        pairs = zip(students, teachers, strict=True)
        loss = loss + vector * sum(1 - cosine(s, t[: len(s)]) for s, t in pairs) / len(students)
    return loss
