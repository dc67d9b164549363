"""Queries that are documents of the corpus themselves, as in ArguAna and Quora: what they must not find."""

from __future__ import annotations

from matryoshka2d.evaluation.retrieval_sets import RetrievalSet

# Words that a query needs at least to be seen behind the title of its document.
_WORDS_BEHIND_A_TITLE = 4


def own_documents(data: RetrievalSet, exclude_self: bool | None = None) -> frozenset[str]:
    """Return the ids of the judged queries whose own document is never counted as found.

    Ids alone say nothing: many sets number queries and documents from 1.

    Parameters
    ----------
    data
        The set.
    exclude_self
        True for every query whose id is that of a document, False for none; by default for those whose text
        the document of that id holds, whole or behind a title.

    Examples
    --------
    >>> texts = {"1": "a cat", "2": "the sea"}
    >>> data = RetrievalSet("toy", texts, {"1": "a cat", "2": "a dog"}, {"1": {"2": 1}, "2": {"1": 1}})
    >>> sorted(own_documents(data)), sorted(own_documents(data, True)), sorted(own_documents(data, False))
    (['1'], ['1', '2'], [])
    """
    if exclude_self is False:
        return frozenset()
    shared = [query for query in data.judged if query in data.corpus]
    return frozenset(q for q in shared if exclude_self or _holds(data.corpus[q], data.queries[q]))


def exclusion_note(data: RetrievalSet, exclude_self: bool | None = None) -> str | None:
    """Return what a reader must know of documents that are left out, None if none are."""
    own = own_documents(data, exclude_self)
    if not own:
        return None
    why = "" if exclude_self else ", which holds its text,"
    return (
        f"set {data.name}: for {len(own)} of {len(data.judged)} queries the document of their own id{why} is "
        f"not counted as found (--include-self counts it)"
    )


def _holds(document: str, query: str) -> bool:
    """Return whether a document is the query, maybe behind a title."""
    words, asked = document.split(), query.split()
    if words == asked:
        return True
    return len(asked) >= _WORDS_BEHIND_A_TITLE and words[-len(asked) :] == asked
