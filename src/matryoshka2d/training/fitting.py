"""fit(): an elastic model without training, from a finished one, a few thousand texts and least squares.

Every inner exit gets the linear map that brings its vectors nearest to the full size. The model itself is not
touched: its full size gives the vectors that it gave before, so that indexes stay valid.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from matryoshka2d.data import read_mixture
from matryoshka2d.encoder.default_model import resolve_model
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.cosine import Floats
from matryoshka2d.options import given_options, stated
from matryoshka2d.size import default_sizes
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
from matryoshka2d.training.training_options import FitOptions


def fit(options: FitOptions | None = None, *, quiet: bool = False, **choices: Any) -> ElasticEncoder:
    """Give the inner exits of a finished model fitted heads, and write it to a folder.

    Parameters
    ----------
    options
        A `FitOptions`; or leave it out and name its fields here. Not both.
    quiet
        Whether to keep notes to oneself.
    **choices
        Fields of `FitOptions`: ``model``, ``data``, ``output`` …

    Returns
    -------
    ElasticEncoder
        The encoder, as it was written to ``output``. Its ``record["fit"]["cosines"]`` holds, for every exit,
        the mean cosine to the full size on texts that were left out of the fit, before and after; of a single
        text none is left out, and it is empty.

    Raises
    ------
    UserError
        If an option, a file, the model or the output is wrong; nothing is written then.

    References
    ----------
    Linear maps between the layers of a language model: arXiv 2303.09435 and 2303.08112.

    Examples
    --------
    >>> fit(data=["missing.txt"], output="my-model")
    Traceback (most recent call last):
    ...
    matryoshka2d.errors.UserError: ...
    """
    options = given_options(FitOptions, options, choices)
    options.check_ready()
    mixture = read_mixture(options.data, options.columns or None, options.limit)
    encoder = ElasticEncoder(resolve_model(options.model), pooling=options.pooling, device=options.device)
    check_can_be_fitted(encoder, options.model)
    fitted_on, held_out = split(
        texts_of(mixture, mixture_prompts(encoder, mixture), options.texts, options.seed)
    )
    count = number_of(fitted_on)
    if not quiet:
        print(f"Fitting {encoder.depth - 1} exits of {options.model} on {count} texts", file=sys.stderr)
    with reading(encoder, options.max_length):
        before = mean_cosines(encoder, held_out)
        encoder.add_heads()
        fit_heads(encoder, fitted_on)
        after = mean_cosines(encoder, held_out)
    farther = [n for n in before if after[n] < before[n]]
    if farther and not quiet:
        print(
            f"warning: exit {farther[0]} came no nearer to the full size: {count} texts are too few, "
            "or too unlike each other; name more with --data",
            file=sys.stderr,
        )
    elif not quiet:
        warn_of_few(fitted_on, held_out)
    encoder.record = {
        **encoder.record,
        "sizes": [str(size) for size in default_sizes(encoder.depth, encoder.width)],
        "fit": {
            **stated(options),
            "cosines": {str(n): [round(before[n], 4), round(after[n], 4)] for n in before},
        },
    }
    write_made(
        encoder, options, "fit", "fitted_card.md.j2", count=count, cosines=encoder.record["fit"]["cosines"]
    )
    return encoder


def check_can_be_fitted(encoder: ElasticEncoder, name: str) -> None:
    """Raise a `UserError` if the model has no inner exit, or heads already."""
    if encoder.depth == 1:
        raise UserError(f"{name} has one layer, so no inner exit: choose a deeper model")
    if encoder.heads is not None:
        raise UserError(
            f"{name} has heads already, trained or fitted: fit the model that it was made from, "
            "or train it further with `matryoshka2d train`"
        )
    check_has_no_tower(encoder, name)


def check_has_no_tower(encoder: ElasticEncoder, name: str) -> None:
    """Raise a `UserError` if a shallow tower answers for exits of a model that is to be changed."""
    if encoder.tower is not None:
        raise UserError(
            f"{name} has a shallow tower, which answers its small sizes: change the model that it was made "
            "from, and distill that"
        )


def mean_cosines(encoder: ElasticEncoder, texts: Texts) -> dict[int, float]:
    """Return inner exit → mean cosine of its vectors to those of the full size; nothing without texts."""
    if not number_of(texts):
        return {}
    exits = exits_of(encoder, texts)
    full = exits.pop(encoder.depth)
    return {n: float(np.mean(np.einsum("td,td->t", vectors, full))) for n, vectors in exits.items()}


RIDGE = 0.01
"""Pull of the map towards the identity, relative to the mean square of a dim."""


def fit_heads(encoder: ElasticEncoder, texts: Texts, targets: np.ndarray | None = None) -> None:
    """Set every head to the linear map from its exit to the full size.

    Parameters
    ----------
    encoder
        A model whose heads are the identity, as `ElasticEncoder.add_heads` makes them.
    texts
        What the map is fitted on: more than the model has dims. `RIDGE` holds the map near the identity where
        they say little, but a handful leads other texts astray.
    targets
        Float [texts, width]: what the map leads to. Default: the vectors of the model's own full size.

    Examples
    --------
    >>> from matryoshka2d.encoder.default_model import default_model_path
    >>> encoder = ElasticEncoder(default_model_path(), device="cpu")
    >>> before = encoder.exits(["a cat sat"])
    >>> _ = encoder.add_heads()
    >>> fit_heads(encoder, {"": ["a cat sat", "two dogs ran", "it rains"]})
    >>> after = encoder.exits(["a cat sat"])
    >>> bool(after[2][0] @ before[6][0] > before[2][0] @ before[6][0])
    True
    """
    assert encoder.heads is not None
    exits = exits_of(encoder, texts)
    full = exits[encoder.depth] if targets is None else targets
    for n in encoder.heads.layers():
        head = encoder.heads.at(n)
        assert head is not None
        weight = nearest_map(exits[n], full).T
        with torch.no_grad():
            head.linear.weight.copy_(torch.from_numpy(weight))


def nearest_map(source: np.ndarray, target: np.ndarray, ridge: float = RIDGE) -> Floats:
    """Return the matrix that takes rows of `source` nearest to those of `target`: ridge regression.

    Parameters
    ----------
    source, target
        Float [texts, width].
    ridge
        How strongly the matrix is held near the identity, relative to the mean square of a dim of `source`.

    Returns
    -------
    numpy.ndarray
        Float64 [width, width]; ``source @ matrix`` is near `target`.

    Examples
    --------
    >>> source = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    >>> np.round(nearest_map(source, source[:, [1, 0, 2]], ridge=1e-6), 3).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    >>> nearest_map(np.zeros((2, 2)), np.ones((2, 2))).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    x, y = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    square, identity = x.T @ x, np.eye(x.shape[1])
    weight = ridge * (np.trace(square) / len(square) or 1.0)
    return np.asarray(np.linalg.solve(square + weight * identity, x.T @ y + weight * identity))
