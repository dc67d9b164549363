"""rotate(): narrow sizes of a finished model made better by a rotation of its space; nothing is trained.

At full width every exit keeps its cosines, and shallow exits stay as near to deep ones as they were. But
vectors made before the rotation do not go with those made after it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from matryoshka2d.choices import given_options, stated
from matryoshka2d.data import Mixture, read_mixture
from matryoshka2d.default_model import resolve_model
from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.agreement import neighbour_recall
from matryoshka2d.size import Size, parse_sizes
from matryoshka2d.training.column_prompts import mixture_prompts
from matryoshka2d.training.model_card import write_made
from matryoshka2d.training.rotation import FEWEST_TEXTS, Exits, learn_rotation
from matryoshka2d.training.text_options import RotateOptions
from matryoshka2d.training.texts import Texts, exits_of, number_of, reading, split, texts_of, warn_of_few

# Nearest texts by which a width is judged.
_NEIGHBOURS = 10


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
        The sizes that the rotation shall serve.
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
        The sizes that it shall serve.
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
    neighbours = min(_NEIGHBOURS, len(exits[max(exits)]) - 1) if exits else 0
    if neighbours < 1:
        return []
    full = exits[max(exits)]
    by_layer = [neighbour_recall(vectors, full, dims, k=neighbours) for vectors in exits.values()]
    return [float(value) for value in np.mean(by_layer, axis=0)]
