"""Which prompt stands before the texts of which column of training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matryoshka2d.data import POSITIVE_PAIRS, TRIPLETS, Format, Mixture, text_columns
from matryoshka2d.prompts import default_prompt, side_prompt


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
