"""A rotation after which the first dims of every exit say as much as they can.

Training, or a fit, leaves the axes of the space as they happened to be, but a prefix keeps some axes and
drops the rest. Turning the space changes no cosine at full width, at any depth, and leaves the exits as near
to each other as they were; so the axes are free to be chosen for the prefixes alone. Chosen are those under
which each prefix, at every depth, ranks the other texts as the full size does. Principal axes are not it:
they keep the variance between all texts, of which most have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from matryoshka2d.objectives.similarity import cosine_matrix, logits_kl, without_diagonal

Exits = Mapping[int, np.ndarray]
"""Layer → float [texts, width] of unit length, of the same texts at every layer."""


# Added to a loss before its logarithm: a prefix that agrees to the last bit has nothing to learn.
_LEAST = 1e-6
# Texts whose cosines to all others are held at a time.
_AT_ONCE = 2048

FEWEST_TEXTS = 3
"""With fewer no text has two others to rank."""


@dataclass(frozen=True)
class Search:
    """How a rotation is looked for; chosen on dev pairs and on texts of other kinds: results/dev-choice.md.

    Parameters
    ----------
    ranks
        Which of its nearest texts come with each text of a step: 1 is the nearest. Texts drawn alone have
        little to do with each other, and narrow prefixes then learn to tell subjects apart and no more.
    texts
        Texts a step, their neighbours among them.
    steps
        Steps of Adam, at most one for each text.
    rate
        Its learning rate, falling to 0.
    temperature
        Temperature of the cosines, that of `matryoshka2d.strategies.all_sizes`.
    """

    ranks: tuple[int, ...] = (1,)
    texts: int = 384
    steps: int = 300
    rate: float = 3e-3
    temperature: float = 0.05


def learn_rotation(
    exits: Exits, dims: Sequence[int], search: Search | None = None, *, seed: int = 0
) -> np.ndarray:
    """Return the rotation under which prefixes rank texts most as the full size does.

    The loss is the logarithm of the KL divergence, from the full size to n x d, of each text's similarities
    to the others of a step (a softmax of cosines, as in `matryoshka2d.objectives.Distillation`), averaged
    over all d, with the depths in turn. Without the logarithm the narrowest prefixes, which are farthest
    off, would be all that counts. The rotation is kept one by Cayley's map of a skew-symmetric matrix.

    Parameters
    ----------
    exits
        Layer → vectors of unit length [texts, width]. The deepest is the full size, which the others are held
        to. No labels; a few thousand texts.
    dims
        The prefixes that it shall serve; the full width is the same under every rotation.
    search
        How long and how fast it is looked for; the default suits a few hundred dims.
    seed
        Which texts come in which step.

    Returns
    -------
    numpy.ndarray
        Float32 [width, width]; ``vectors @ rotation`` are the turned vectors. The identity where there is
        nothing to choose: fewer than `FEWEST_TEXTS` texts, or no prefix narrower than the full width.

    Examples
    --------
    >>> chance = np.random.default_rng(0)
    >>> told_apart_by_the_last_dims = chance.normal(size=(200, 40)) * ([0.1] * 20 + [1.0] * 20)
    >>> vectors = told_apart_by_the_last_dims / np.linalg.norm(told_apart_by_the_last_dims, axis=1)[:, None]
    >>> rotation = learn_rotation({1: vectors}, [20], Search(steps=200, rate=0.03))
    >>> energy = np.square(vectors @ rotation).mean(axis=0)
    >>> bool(energy[:20].sum() > 5 * energy[20:].sum())
    True
    """
    search = search or Search()
    layers = sorted(exits)
    count, width = exits[layers[-1]].shape
    prefixes = [d for d in dims if d < width]
    if not prefixes or count < FEWEST_TEXTS:
        return np.eye(width, dtype=np.float32)
    vectors = {n: torch.as_tensor(exits[n], dtype=torch.float32) for n in layers}
    full = vectors[layers[-1]]
    beside = neighbours(full, search.ranks)
    seeds, steps = max(2, search.texts // beside.shape[1]), min(search.steps, count)
    chance = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), torch.enable_grad():
        free = torch.zeros(width, width, requires_grad=True)
        adam = torch.optim.Adam([free], lr=search.rate)
        for step, n in zip(range(steps), cycle(layers), strict=False):
            adam.param_groups[0]["lr"] = search.rate * (1 - step / steps)
            rows = torch.unique(beside[torch.randperm(count, generator=chance)[:seeds]])
            loss = _loss(vectors[n][rows] @ cayley(free), full[rows], prefixes, search.temperature)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
        rotation: np.ndarray = cayley(free.detach().double()).float().numpy()
    return rotation


def _loss(turned: Tensor, full: Tensor, dims: Sequence[int], temperature: float) -> Tensor:
    wanted = _similarities(full, temperature)
    far = [logits_kl(_similarities(turned[:, :d], temperature), wanted) for d in dims]
    return (torch.stack(far) + _LEAST).log().mean()


def _similarities(vectors: Tensor, temperature: float) -> Tensor:
    """Return the logits of each text's similarities to the others: [texts, texts - 1]."""
    return without_diagonal(cosine_matrix(vectors, vectors)) / temperature


def cayley(matrix: Tensor) -> Tensor:
    """Return the rotation that Cayley's map makes of the skew-symmetric part of a matrix.

    >>> turned = cayley(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    >>> turned.round(decimals=3).tolist()
    [[0.0, -1.0], [1.0, 0.0]]
    """
    skew = matrix - matrix.T
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    turned: Tensor = torch.linalg.solve(identity + skew, identity - skew)
    return turned


def neighbours(vectors: Tensor, ranks: Sequence[int]) -> Tensor:
    """Return, for each text, its own row and those of its neighbours of some ranks.

    Parameters
    ----------
    vectors
        Float [texts, width] of unit length.
    ranks
        1 is the nearest other text. A rank that so few texts do not have stands for the farthest.

    Returns
    -------
    Tensor
        Int64 [texts, 1 + ranks].

    Examples
    --------
    >>> line = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> neighbours(line, [1, 5]).tolist()
    [[0, 1, 2], [1, 0, 2], [2, 1, 0]]
    """
    farthest = len(vectors) - 1
    wanted = [0, *(min(rank, farthest) for rank in ranks)]
    parts = []
    for start in range(0, len(vectors), _AT_ONCE):
        some = vectors[start : start + _AT_ONCE]
        cosines = some @ vectors.T
        # A text stands first even where others equal it.
        cosines[torch.arange(len(some)), torch.arange(start, start + len(some))] = 2.0
        parts.append(cosines.topk(1 + max(wanted), dim=1).indices[:, wanted])
    return torch.cat(parts)
