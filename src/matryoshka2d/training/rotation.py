"""rotate(): narrow sizes of a finished model made better by a rotation of its space; nothing is trained.

At full width every exit keeps its cosines, and shallow exits stay as near to deep ones as they were. But
vectors made before the rotation do not go with those made after it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matryoshka2d.data import Mixture, read_mixture
from matryoshka2d.encoder.default_model import resolve_model
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.agreement import neighbor_recall
from matryoshka2d.losses.objectives.similarity import cosine_matrix, logits_kl, without_diagonal
from matryoshka2d.options import given_options, stated
from matryoshka2d.size import Size, parse_sizes
from matryoshka2d.training.model_card import write_made
from matryoshka2d.training.texts import (
    Texts,
    exits_of,
    mixture_prompts,
    number_of,
    reading,
    split,
    texts_of,
    warn_of_few,
)
from matryoshka2d.training.training_options import RotateOptions

# Nearest texts by which a width is judged.
_NEIGHBORS = 10


def rotate(options: RotateOptions | None = None, *, quiet: bool = False, **choices: Any) -> ElasticEncoder:
    """Turn the space of a model so that prefixes say more, and write the model to a folder.

    Parameters
    ----------
    options
        A `RotateOptions`; or leave it out and name its fields here. Not both.
    quiet
        Whether to keep notes to oneself.
    **choices
        Fields of `RotateOptions`: ``model``, ``data``, ``output`` …

    Returns
    -------
    ElasticEncoder
        The encoder, as it was written to ``output``. Its ``record["rotation"]["recall"]`` holds, for every
        prefix, the share of the nearest texts at full size that are nearest there too, on texts that were
        left out, before and after.

    Raises
    ------
    UserError
        If an option, a file, the model or the output is wrong; nothing is written then.

    Examples
    --------
    >>> rotate(data=["missing.txt"], output="my-model")
    Traceback (most recent call last):
    ...
    matryoshka2d.errors.UserError: ...
    """
    options = given_options(RotateOptions, options, choices)
    options.check_ready()
    mixture = read_mixture(options.data, options.columns or None, options.limit)
    encoder = ElasticEncoder(resolve_model(options.model), pooling=options.pooling, device=options.device)
    sizes = _served(encoder, options)
    texts = texts_of(mixture, mixture_prompts(encoder, mixture), options.texts, options.seed)
    learnt_from, held_out = split(texts)
    if are_too_few(learnt_from) or not number_of(held_out):
        raise UserError(
            "too few texts for a rotation, which goes by how texts rank each other: "
            f"{number_of(texts)} given, of which some are left out to judge by; name more, a few "
            "thousand at best, as --data texts.txt"
        )
    count = number_of(learnt_from)
    if not quiet:
        print(f"Rotating {options.model} by {count} texts", file=sys.stderr)
    with reading(encoder, options.max_length):
        recall = rotate_for(encoder, learnt_from, sizes, held_out=held_out, seed=options.seed)
    if not quiet and any(after < before for before, after in recall.values()):
        print(
            f"warning: some widths agree less with the full size than before: {count} texts are too few, or "
            "too unlike each other; name more with --data",
            file=sys.stderr,
        )
    elif not quiet:
        warn_of_few(learnt_from, held_out)
    encoder.record = {
        **encoder.record,
        "rotation": {
            **stated(options),
            "recall": {str(d): [round(value, 4) for value in pair] for d, pair in recall.items()},
        },
    }
    write_made(encoder, options, "rotate", "rotated_card.md.j2", count=count, recall=recall)
    return encoder


def _served(encoder: ElasticEncoder, options: RotateOptions) -> tuple[Size, ...]:
    sizes = parse_sizes(options.sizes) if options.sizes else encoder.sizes
    for size in sizes:
        encoder.check(size)
    check_can_be_turned(sizes, encoder.width)
    return sizes


def turned_dims(sizes: Iterable[Size], width: int) -> list[int]:
    """Return the widths among some sizes that a rotation serves; no cosine changes at full width.

    >>> turned_dims(parse_sizes("1-6x8,16,384"), 384)
    [8, 16]
    """
    return sorted({size.dims for size in sizes if size.dims < width})


def check_can_be_turned(sizes: Iterable[Size], width: int) -> None:
    """Raise a `UserError` if a rotation serves none of some sizes of a model."""
    if not turned_dims(sizes, width):
        raise UserError(
            f"a rotation serves sizes of fewer than all {width} dims, and there is none: name such sizes, or "
            "leave the rotation out"
        )


def are_too_few(texts: Texts) -> bool:
    """Return whether a rotation cannot be learnt from some texts: nothing ranks so few.

    >>> are_too_few({"": ["a", "b"]}), are_too_few({"": ["a", "b"], "query: ": ["c"]})
    (True, False)
    """
    return number_of(texts) < FEWEST_TEXTS


def rotate_by(encoder: ElasticEncoder, mixture: Mixture[Any], sizes: Sequence[Size], seed: int) -> bool:
    """Turn the space of an encoder by texts of the data that it was trained on.

    Parameters
    ----------
    encoder
        The model; it is changed.
    mixture
        The data.
    sizes
        The sizes that the rotation is optimized for.
    seed
        Which texts are drawn.

    Returns
    -------
    bool
        Whether there were texts enough; else the encoder is as it was.
    """
    texts = texts_of(mixture, mixture_prompts(encoder, mixture), RotateOptions.texts, seed)
    if are_too_few(texts):
        return False
    rotate_for(encoder, texts, sizes, seed=seed)
    return True


def rotate_for(
    encoder: ElasticEncoder,
    texts: Texts,
    sizes: Sequence[Size],
    *,
    held_out: Texts | None = None,
    seed: int = 0,
) -> dict[int, tuple[float, float]]:
    """Turn the space of an encoder, so that prefixes at some sizes agree best with the full size.

    Parameters
    ----------
    encoder
        The model; it is changed.
    texts
        What the rotation is learnt from.
    sizes
        The sizes that it is optimized for.
    held_out
        Texts to judge it by; none by default.
    seed
        Which texts come in which step.

    Returns
    -------
    dict
        Dims → the recall of the full size's nearest texts, among those that were held out, before and after;
        empty without them.
    """
    layers = sorted({size.layers for size in sizes} | {encoder.depth})
    dims = turned_dims(sizes, encoder.width)
    rotation = learn_rotation(exits_of(encoder, texts, layers), dims, seed=seed)
    before = exits_of(encoder, held_out, layers) if held_out and any(held_out.values()) else {}
    encoder.rotate(rotation)
    after = {n: vectors @ rotation for n, vectors in before.items()}
    recalls = zip(_recall(before, dims), _recall(after, dims), strict=True)
    # Without texts to judge by there are no recalls, and no dims have any.
    return dict(zip(dims, recalls, strict=False))


def _recall(exits: Exits, dims: Sequence[int]) -> list[float]:
    """Return, for each width, the recall of the deepest exit's nearest texts, averaged over the exits."""
    neighbors = min(_NEIGHBORS, len(exits[max(exits)]) - 1) if exits else 0
    if neighbors < 1:
        return []
    full = exits[max(exits)]
    by_layer = [neighbor_recall(vectors, full, dims, k=neighbors) for vectors in exits.values()]
    return [float(value) for value in np.mean(by_layer, axis=0)]


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
    """How a rotation is looked for; chosen on dev pairs and on texts of other kinds.

    The choice is written up in reproduction/results/dev-choice.md.

    Parameters
    ----------
    ranks
        Which of its nearest texts come with each text of a step: 1 is the nearest. Texts drawn alone have
        little to do with each other, and narrow prefixes then learn to tell subjects apart and no more.
    texts
        Texts a step, their neighbors among them.
    steps
        Steps of Adam, at most one for each text.
    rate
        Its learning rate, falling to 0.
    temperature
        Temperature of the cosines, that of `matryoshka2d.losses.strategies.all_sizes`.
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
    to the others of a step (a softmax of cosines, as in `losses.objectives.Distillation`), averaged
    over all d, with the depths in turn. Without the logarithm the narrowest prefixes, which are farthest
    off, would be all that counts. The rotation is kept one by Cayley's map of a skew-symmetric matrix.

    Parameters
    ----------
    exits
        Layer → vectors of unit length [texts, width]. The deepest is the full size, which the others are held
        to. No labels; a few thousand texts.
    dims
        The prefixes that it is optimized for; the full width is the same under every rotation.
    search
        How long and how fast it is looked for; the default suits a few hundred dims.
    seed
        Which texts come in which step.

    Returns
    -------
    numpy.ndarray
        Float32 [width, width]; ``vectors @ rotation`` are the rotated vectors. The identity where there is
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
    beside = neighbors(full, search.ranks)
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


def _loss(rotated: Tensor, full: Tensor, dims: Sequence[int], temperature: float) -> Tensor:
    wanted = _similarities(full, temperature)
    far = [logits_kl(_similarities(rotated[:, :d], temperature), wanted) for d in dims]
    return (torch.stack(far) + _LEAST).log().mean()


def _similarities(vectors: Tensor, temperature: float) -> Tensor:
    """Return the logits of each text's similarities to the others: [texts, texts - 1]."""
    return without_diagonal(cosine_matrix(vectors, vectors)) / temperature


def cayley(matrix: Tensor) -> Tensor:
    """Return the rotation that Cayley's map makes of the skew-symmetric part of a matrix.

    >>> rotated = cayley(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    >>> rotated.round(decimals=3).tolist()
    [[0.0, -1.0], [1.0, 0.0]]
    """
    skew = matrix - matrix.T
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    rotated: Tensor = torch.linalg.solve(identity + skew, identity - skew)
    return rotated


def neighbors(vectors: Tensor, ranks: Sequence[int]) -> Tensor:
    """Return, for each text, its own row and those of its neighbors of some ranks.

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
    >>> neighbors(line, [1, 5]).tolist()
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
