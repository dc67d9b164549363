"""What a model puts before a query and before a document."""

from __future__ import annotations

from typing import Any, Literal

Side = Literal["query", "document"]

SIDE_NAMES: dict[Side, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Names under which models keep the prompt of a side; the first that a model has counts."""


def side_prompt(model: Any, side: Side) -> str:
    """Return the prompt that a model puts before queries or documents, empty if it has none.

    As in ``SentenceTransformer.encode_query`` and ``encode_document``: the prompt called ``query``, or the
    first of ``document``, ``passage`` and ``corpus``; the model's default one where there is no such name. A
    prompt of that name counts even if it is empty, and sentence-transformers gives every model it loads an
    empty ``query`` and ``document`` where its configuration has none.

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
    own = (name for name in SIDE_NAMES[side] if name in prompts)
    name = next(own, getattr(model, "default_prompt_name", None))
    return prompts.get(name) or ""


def default_prompt(model: Any) -> str:
    """Return the prompt that a model puts before texts that are neither, empty if it has none."""
    prompts = getattr(model, "prompts", None) or {}
    return prompts.get(getattr(model, "default_prompt_name", None)) or ""
