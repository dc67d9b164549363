"""fit(): an elastic model without training, from a finished one, a few thousand texts and least squares.

Every inner exit gets the linear map that brings its vectors nearest to the full size. The model itself is not
touched: its full size gives the vectors that it gave before, so that indexes stay valid.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from matryoshka2d.choices import given_options, stated
from matryoshka2d.data import read_mixture
from matryoshka2d.default_model import resolve_model
from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.size import default_sizes
from matryoshka2d.training.column_prompts import mixture_prompts
from matryoshka2d.training.head_fit import fit_heads
from matryoshka2d.training.model_card import write_made
from matryoshka2d.training.text_options import FitOptions
from matryoshka2d.training.texts import Texts, exits_of, number_of, reading, split, texts_of, warn_of_few


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
        The encoder, as it was written to ``output``. Its ``record["fit"]["nearness"]`` holds, for every exit,
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
        before = nearness(encoder, held_out)
        encoder.add_heads()
        fit_heads(encoder, fitted_on)
        after = nearness(encoder, held_out)
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
            "nearness": {str(n): [round(before[n], 4), round(after[n], 4)] for n in before},
        },
    }
    write_made(
        encoder, options, "fit", "fitted_card.md.j2", count=count, nearness=encoder.record["fit"]["nearness"]
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


def nearness(encoder: ElasticEncoder, texts: Texts) -> dict[int, float]:
    """Return inner exit → mean cosine of its vectors to those of the full size; nothing without texts."""
    if not number_of(texts):
        return {}
    exits = exits_of(encoder, texts)
    full = exits.pop(encoder.depth)
    return {n: float(np.mean(np.einsum("td,td->t", vectors, full))) for n, vectors in exits.items()}
