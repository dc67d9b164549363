"""Sentences to time an engine on when the user gives none: plain, distinct, of the lengths of search queries
and short passages."""

from __future__ import annotations

from itertools import product

_SUBJECTS = (
    "The museum near the old harbour",
    "Our neighbour",
    "A team of engineers from three countries",
    "The new timetable",
    "Every second household in the valley",
    "My grandmother's recipe",
    "The committee",
    "A small bookshop",
)
_VERBS = (
    "changed",
    "explains",
    "will need",
    "could not find",
    "is known for",
    "paid for",
    "keeps",
    "asked about",
)
_OBJECTS = (
    "the bridge",
    "a better way to store rain water during the dry months",
    "two hundred letters",
    "its opening hours in winter",
    "the price of bread",
    "a photograph of the river taken before the flood",
    "several answers",
    "the school, the market and the road between them",
)


def sample_texts() -> tuple[str, ...]:
    """Return 512 distinct sentences of 4 to 20 words.

    >>> len(set(sample_texts()))
    512
    """
    return tuple(" ".join(parts) + "." for parts in product(_SUBJECTS, _VERBS, _OBJECTS))
