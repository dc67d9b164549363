"""A small retrieval task on the documentation of Python, and questions that a newcomer understands.

The task comes from held-out modules only: what a function, a class or a module is for (the summary line of
its docstring) is the query, the rest of that docstring is the one document to find.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from matryoshka2d.errors import UserError
from matryoshka2d.quickstart.corpus import Corpus, Passage, fold

SHORTEST_DOCUMENT = 12
"""The fewest words of a document: a shorter rest of a docstring says too little to be found by."""

LONGEST_DOCUMENT = 100
"""Words after which no further sentence is added; the first sentences say what something is for."""

FEWEST_QUERIES = 50
"""Below this a score of the task says nothing."""

DEMO_QUESTIONS: tuple[str, ...] = (
    "How do I make a temporary directory that is deleted automatically?",
    "How can I cache the results of a slow function?",
    "How do I find the median of some numbers?",
    "How can I wrap a long text into lines of a given width?",
    "How do I open a web page in the browser?",
    "How can I ask for a password without showing it on the screen?",
    "How do I print data structures so that they are easy to read?",
    "How can I measure how long a piece of code takes?",
)
"""Questions that passages of :func:`demo_passages` answer."""

# Programs and toolkits whose many passages would drown the functions that people look for.
_NOT_IN_DEMO = frozenset(
    {
        "distutils",
        "genericpath",
        "idlelib",
        "lib2to3",
        "ntpath",
        "nturl2path",
        "pydoc",
        "tkinter",
        "turtle",
        "turtledemo",
    }
)


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, documents and which answers which, in the form of BEIR.

    Parameters
    ----------
    queries : dict of str to str
        The text of each query, by its id.
    documents : dict of str to str
        The text of each document, by its id: the name of what it documents.
    relevant : dict of str to set of str
        The ids of the documents that answer a query, by the id of the query; here always one.
    """

    queries: dict[str, str]
    documents: dict[str, str]
    relevant: dict[str, set[str]]


def retrieval_task(corpus: Corpus) -> RetrievalTask:
    """Make a retrieval task from the held-out modules of a corpus.

    Parameters
    ----------
    corpus : Corpus
        What :func:`~matryoshka2d.quickstart.corpus.python_documentation` gave.

    Returns
    -------
    RetrievalTask
        Some five hundred queries with one relevant document each; all queries and all documents are distinct,
        and no document contains its query.

    Raises
    ------
    UserError
        When the held-out modules are too few for fifty queries.
    """
    candidates = [passage for passage in corpus.passages if passage.module in corpus.held_out_modules]
    pairs = _distinct_pairs(candidates)
    if len(pairs) < FEWEST_QUERIES:
        raise UserError(
            f"The held-out modules give {len(pairs)} queries; expected at least {FEWEST_QUERIES}. "
            "Hold out a larger share of the modules, such as held_out_share=0.2."
        )
    return RetrievalTask(
        queries={f"query:{title}": query for title, (query, _) in pairs.items()},
        documents={title: document for title, (_, document) in pairs.items()},
        relevant={f"query:{title}": {title} for title in pairs},
    )


def demo_passages(corpus: Corpus) -> tuple[Passage, ...]:
    """The passages among which the demo questions are answered, of training and held-out modules.

    These are the public modules, and the functions and classes at their top, that say more than a few words;
    ``passage.title`` names one (``"tempfile.TemporaryDirectory"``) and ``passage.text`` is what to encode.

    Examples
    --------
    >>> from matryoshka2d.quickstart.corpus import python_documentation
    >>> titles = {passage.title for passage in demo_passages(python_documentation())}
    >>> "tempfile.TemporaryDirectory" in titles
    True
    """
    modules = {passage.title for passage in corpus.passages if passage.kind == "module"}
    return tuple(
        Passage(passage.title, passage.kind, _opening(passage.sentences))
        for passage in corpus.passages
        if passage.module not in _NOT_IN_DEMO
        and _is_public(passage)
        and (passage.kind == "module" or passage.title.rpartition(".")[0] in modules)
    )


def _distinct_pairs(passages: Iterable[Passage]) -> dict[str, tuple[str, str]]:
    """A query and its document by title, where neither text occurs twice."""
    pairs = {passage.title: _pair(passage) for passage in passages if _is_public(passage)}
    queries = Counter(fold(query) for query, _ in pairs.values())
    documents = Counter(fold(document) for _, document in pairs.values())
    return {
        title: (query, document)
        for title, (query, document) in pairs.items()
        if len(document.split()) >= SHORTEST_DOCUMENT
        and queries[fold(query)] == documents[fold(document)] == 1
        and fold(query) not in fold(document)
    }


def _pair(passage: Passage) -> tuple[str, str]:
    return passage.sentences[0], " ".join(_opening(passage.sentences[1:]))


def _opening(sentences: tuple[str, ...]) -> tuple[str, ...]:
    """The first sentences, up to the one that reaches the longest length."""
    opening: list[str] = []
    for sentence in sentences:
        if sum(len(earlier.split()) for earlier in opening) >= LONGEST_DOCUMENT:
            break
        opening.append(sentence)
    return tuple(opening)


def _is_public(passage: Passage) -> bool:
    return not any(part.startswith("_") for part in passage.title.split("."))
