"""fit(): an elastic model without training, from a finished one, a few thousand texts and least squares.

Every inner exit gets the linear map that brings its vectors nearest to the full size. The model itself is not
touched: its full size gives the vectors that it gave before, so that indexes stay valid.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np

from matryoshka2d.choices import given_options
from matryoshka2d.data import read_mixture
from matryoshka2d.default_model import resolve_model
from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.files import staged_folder
from matryoshka2d.size import default_sizes
from matryoshka2d.training.column_prompts import mixture_prompts
from matryoshka2d.training.head_fit import Texts, fit_heads, texts_of
from matryoshka2d.training.memory import saying_what_lowers_memory
from matryoshka2d.training.model_card import command_of, elastic_facts, write_card
from matryoshka2d.training.settings import max_length_of
from matryoshka2d.training.text_options import FitOptions

_HELD_OUT = 0.1


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
        the mean cosine to the full size on texts that were left out of the fit, before and after.

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
    count = sum(map(len, fitted_on.values()))
    if not quiet:
        print(f"Fitting {encoder.depth - 1} exits of {options.model} on {count} texts", file=sys.stderr)
    advice = f"out of memory with {options.max_length} tokens a text: lower --max-length"
    with max_length_of(encoder, options.max_length), saying_what_lowers_memory(advice):
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
    encoder.record = {
        **encoder.record,
        "sizes": [str(size) for size in default_sizes(encoder.depth, encoder.width)],
        "fit": {
            **{k: v for k, v in dataclasses.asdict(options).items() if v not in (None, {}, [])},
            "nearness": {str(n): [round(before[n], 4), round(after[n], 4)] for n in before},
        },
    }
    _write(encoder, options, count)
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


def split(texts: Texts) -> tuple[Texts, Texts]:
    """Return the texts to fit to, and a tenth that is left out to judge by.

    >>> split({"": ["a", "b", "c"]})
    ({'': ['a', 'b']}, {'': ['c']})
    """
    fitted, held = {}, {}
    for prompt, some in texts.items():
        out = max(1, round(_HELD_OUT * len(some))) if len(some) > 1 else 0
        fitted[prompt], held[prompt] = some[: len(some) - out], some[len(some) - out :]
    return fitted, held if any(held.values()) else fitted


def nearness(encoder: ElasticEncoder, texts: Texts) -> dict[int, float]:
    """Return inner exit → mean cosine of its vectors to those of the full size."""
    passes = [encoder.exits(some, prompt=prompt or None) for prompt, some in texts.items() if some]
    exits = {n: np.concatenate([vectors[n] for vectors in passes]) for n in passes[0]}
    full = exits.pop(encoder.depth)
    return {n: float(np.mean(np.einsum("td,td->t", vectors, full))) for n, vectors in exits.items()}


def _write(encoder: ElasticEncoder, options: FitOptions, count: int) -> None:
    with staged_folder(options.output, overwrite=options.overwrite) as folder:
        encoder.save(str(folder), create_model_card=False)
        write_card(
            folder,
            "fitted_card.md.j2",
            options.model,
            **elastic_facts(encoder, options.output),
            count=count,
            nearness=encoder.record["fit"]["nearness"],
            command=command_of(options, "fit"),
        )
