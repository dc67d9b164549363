"""Texts by which a finished model is changed: drawn from data, a tenth left out, seen at every exit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
from datasets import Dataset

from matryoshka2d.data import POSITIVE_PAIRS, TRIPLETS, Format, Mixture, Stream, text_columns
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.loading import default_prompt, side_prompt
from matryoshka2d.training.model_settings import max_length_of
from matryoshka2d.training.training_options import saying_what_lowers_memory

TEXTS = 4096
"""Texts that are drawn, at most, unless told otherwise: ten for each dim of a small encoder."""

Texts = Mapping[str, Sequence[str]]
"""Prompt, maybe empty → texts that it stands before."""

_HELD_OUT = 0.1


def texts_of(
    mixture: Mixture[Any], prompts: Mapping[str, Mapping[str, str]], count: int = TEXTS, seed: int = 0
) -> Texts:
    """Return distinct texts of all data sets of a run, as many of each, under the prompts they get there.

    Parameters
    ----------
    mixture
        The data sets; of a stream, the first rows are read.
    prompts
        Data set → column → prompt.
    count
        How many texts, about.
    seed
        Which rows of a data set that is in memory.
    """
    found: dict[str, dict[str, None]] = {}
    for name, rows in mixture.datasets.items():
        columns = text_columns(rows.column_names)
        few = max(1, count // (len(mixture.datasets) * len(columns)))
        for row in _some(rows, few, seed):
            for column in columns:
                found.setdefault(prompts[name].get(column, ""), {})[row[column]] = None
    return {prompt: list(texts) for prompt, texts in found.items()}


def _some(rows: Dataset | Stream, count: int, seed: int) -> Iterable[Mapping[str, Any]]:
    chance = np.random.default_rng(seed)
    if isinstance(rows, Stream):
        return islice(rows.one_pass(chance), count)
    drawn = np.sort(chance.choice(len(rows), size=min(count, len(rows)), replace=False))
    return cast(Iterable[Mapping[str, Any]], rows.select(drawn))


def split(texts: Texts) -> tuple[Texts, Texts]:
    """Return the texts to learn from, and a tenth that is left out to judge by.

    >>> split({"": ["a", "b", "c"]})
    ({'': ['a', 'b']}, {'': ['c']})
    """
    fitted, held = {}, {}
    for prompt, some in texts.items():
        out = max(1, round(_HELD_OUT * len(some))) if len(some) > 1 else 0
        fitted[prompt], held[prompt] = some[: len(some) - out], some[len(some) - out :]
    return fitted, held if any(held.values()) else fitted


def exits_of(
    encoder: ElasticEncoder, texts: Texts, layers: Sequence[int] | None = None
) -> dict[int, np.ndarray]:
    """Return layer → vectors of all texts, each behind its prompt: float32 [texts, width], of unit length.

    Parameters
    ----------
    encoder
        The model.
    texts
        At least one.
    layers
        The exits; all of them by default.
    """
    passes = [
        encoder.exits(some, layers=layers, prompt=prompt or None) for prompt, some in texts.items() if some
    ]
    return {n: np.concatenate([vectors[n] for vectors in passes]) for n in passes[0]}


@contextlib.contextmanager
def reading(encoder: ElasticEncoder, max_length: int) -> Iterator[None]:
    """Cut texts to so many tokens, and say what to do where memory is too small for them."""
    advice = f"out of memory with {max_length} tokens a text: lower --max-length"
    with max_length_of(encoder, max_length), saying_what_lowers_memory(advice):
        yield


def column_prompts(model: Any, form: Format, columns: Sequence[str]) -> dict[str, str]:
    """Return column → prompt, for columns whose prompt says something.

    In pairs and triplets the anchors are queries and all others documents. In scored pairs and plain texts
    no side is special: they get what the model puts before any text.

    Parameters
    ----------
    model
        A SentenceTransformer with its prompts.
    form
        What the data holds.
    columns
        Its text columns, anchors first.

    Examples
    --------
    >>> class Model:
    ...     prompts = {"query": "query: ", "document": "passage: "}
    >>> column_prompts(Model(), POSITIVE_PAIRS, ["anchor", "positive"])
    {'anchor': 'query: ', 'positive': 'passage: '}
    """
    if form in (POSITIVE_PAIRS, TRIPLETS):
        prompts = [side_prompt(model, "query" if place == 0 else "document") for place in range(len(columns))]
    else:
        prompts = [default_prompt(model)] * len(columns)
    return {column: prompt for column, prompt in zip(columns, prompts, strict=True) if prompt}


def mixture_prompts(model: Any, mixture: Mixture[Any]) -> dict[str, dict[str, str]]:
    """Return data set → column → prompt, for every data set of a run."""
    return {
        name: column_prompts(model, form, text_columns(mixture.datasets[name].column_names))
        for name, form in mixture.formats.items()
    }
