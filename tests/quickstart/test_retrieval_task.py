"""The retrieval task is valid, real and not trivial; the demo can be answered."""

from __future__ import annotations

import dataclasses

import pytest

from matryoshka2d.errors import UserError
from matryoshka2d.quickstart.corpus import Corpus, Passage, fold
from matryoshka2d.quickstart.retrieval_task import (
    DEMO_QUESTIONS,
    SHORTEST_DOCUMENT,
    RetrievalTask,
    demo_passages,
    retrieval_task,
)


@pytest.fixture(scope="module")
def task(corpus: Corpus) -> RetrievalTask:
    return retrieval_task(corpus)


def test_hundreds_of_queries_with_one_document_each(task: RetrievalTask):
    assert len(task.queries) == len(task.documents) == len(task.relevant) >= 150
    assert all(len(documents) == 1 for documents in task.relevant.values())


def test_every_id_resolves(task: RetrievalTask):
    assert task.relevant.keys() == task.queries.keys()
    assert set().union(*task.relevant.values()) == task.documents.keys()


def test_no_document_contains_its_query(task: RetrievalTask):
    for query, (document,) in task.relevant.items():
        assert fold(task.queries[query]) not in fold(task.documents[document])


def test_queries_and_documents_are_distinct(task: RetrievalTask):
    for texts in (task.queries, task.documents):
        assert len({fold(text) for text in texts.values()}) == len(texts)
    assert all(len(document.split()) >= SHORTEST_DOCUMENT for document in task.documents.values())


def test_only_held_out_modules(task: RetrievalTask, corpus: Corpus):
    assert {title.partition(".")[0] for title in task.documents} <= corpus.held_out_modules
    train = {fold(sentence) for sentence in corpus.train}
    assert not train & {fold(query) for query in task.queries.values()}


def test_the_same_every_time(task: RetrievalTask, corpus: Corpus):
    again = retrieval_task(corpus)
    assert list(again.queries.items()) == list(task.queries.items())
    assert again == task


def test_too_few_held_out_modules(corpus: Corpus):
    with pytest.raises(UserError, match=r"expected at least 50.*held_out_share=0\.2"):
        retrieval_task(dataclasses.replace(corpus, held_out_modules=frozenset({"json"})))


def test_texts_that_occur_twice_are_left_out(corpus: Corpus):
    passages = [
        Passage(f"json.f{i}", "function", (f"Do what number {i} says.", f"Number {i} says " + "so and " * 10))
        for i in range(60)
    ]
    twice = (
        Passage("json.a", "function", ("Do it all now.", "It is done " + "at once and " * 5)),
        Passage("json.b", "function", ("Do it all now.", "It is done " + "later and " * 8)),
    )
    small = dataclasses.replace(corpus, passages=(*passages, *twice), held_out_modules=frozenset({"json"}))
    assert retrieval_task(small).documents.keys() == {passage.title for passage in passages}


def test_the_answers_of_the_demo_are_among_its_passages(corpus: Corpus):
    passages = demo_passages(corpus)
    titles = {passage.title for passage in passages}
    assert len(DEMO_QUESTIONS) == len(set(DEMO_QUESTIONS))
    assert {
        "tempfile.TemporaryDirectory",
        "functools.lru_cache",
        "statistics.median",
        "textwrap.wrap",
        "webbrowser.open",
        "getpass",
        "pprint",
        "timeit",
    } <= titles
    assert len(passages) < 3000
    assert not any(part.startswith("_") for title in titles for part in title.split("."))
