"""What a model puts before a query and before a document."""

from __future__ import annotations

from typing import Any, Literal

Side = Literal["query", "document"]


def side_prompt(model: Any, side: Side) -> str:
    """Return the prompt that a model puts before queries or documents, empty if it has none.

    As in ``SentenceTransformer.encode_query``: the prompt of that name, or the model's default one where
    there is no such name.

    Parameters
    ----------
    model
        Anything that may have ``prompts`` and ``default_prompt_name``, as a SentenceTransformer has.
    side
        Which of the two.

    Examples
    --------
    >>> class Model:
    ...     prompts = {"query": "query: ", "document": ""}
    >>> side_prompt(Model(), "query"), side_prompt(Model(), "document"), side_prompt(object(), "query")
    ('query: ', '', '')
    """
    prompts = getattr(model, "prompts", None) or {}
    name = side if side in prompts else getattr(model, "default_prompt_name", None)
    return prompts.get(name) or ""


def default_prompt(model: Any) -> str:
    """Return the prompt that a model puts before texts that are neither, empty if it has none."""
    prompts = getattr(model, "prompts", None) or {}
    return prompts.get(getattr(model, "default_prompt_name", None)) or ""
