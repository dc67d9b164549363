"""The documentation of Python as a corpus: enough of it, clean, always the same, split without a leak."""

from __future__ import annotations

import importlib
import sys

import pytest

from matryoshka2d.errors import UserError
from matryoshka2d.quickstart.corpus import (
    LONGEST,
    SHORTEST,
    Corpus,
    fold,
    is_held_out,
    python_documentation,
    sentences_of,
)


def test_enough_sentences(corpus: Corpus):
    assert len(corpus.train) >= 12_000
    assert len(corpus.held_out) >= 1_000


def test_the_same_every_time(corpus: Corpus):
    assert python_documentation() == corpus


def test_no_sentence_is_on_both_sides_or_twice(corpus: Corpus):
    folded = [fold(sentence) for sentence in (*corpus.train, *corpus.held_out)]
    assert len(set(folded)) == len(folded)


def test_lengths_and_spaces(corpus: Corpus):
    for sentence in (*corpus.train, *corpus.held_out):
        assert SHORTEST <= len(sentence.split()) <= LONGEST
        assert sentence == " ".join(sentence.split())
        assert ">>>" not in sentence


def test_about_a_tenth_of_the_modules_is_held_out(corpus: Corpus):
    modules = {passage.module for passage in corpus.passages}
    assert 0.05 < len(corpus.held_out_modules) / len(modules) < 0.2
    assert all(is_held_out(module) == (module in corpus.held_out_modules) for module in modules)


def test_implementations_are_held_out_with_their_module():
    for public, private in [("json", "_json"), ("decimal", "_pydecimal"), ("operator", "_operator")]:
        assert is_held_out(public) == is_held_out(private)


def test_a_larger_share_holds_out_more(corpus: Corpus):
    larger = python_documentation(held_out_share=0.3)
    assert corpus.held_out_modules < larger.held_out_modules


def test_passages_have_distinct_titles_and_text(corpus: Corpus):
    titles = [passage.title for passage in corpus.passages]
    assert titles == sorted(set(titles))
    assert all(passage.text for passage in corpus.passages)
    assert {"tempfile.TemporaryDirectory", "builtins.len"} <= set(titles)


def test_tests_are_not_documentation(corpus: Corpus):
    assert not any(
        part in passage.title.split(".") for passage in corpus.passages for part in ("idle_test", "tests")
    )


def test_compiled_modules_go_by_their_public_name(corpus: Corpus):
    assert not {"posix", "nt", "_io"} & {passage.module for passage in corpus.passages}


def test_nothing_but_compiled_modules_is_imported(monkeypatch):
    imported = []
    original = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: imported.append(name) or original(name))
    python_documentation()
    assert set(imported) <= set(sys.builtin_module_names)


def test_an_installation_without_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "builtin_module_names", ("atexit",))
    with pytest.raises(UserError, match=r"expected the \.py sources.*Use a Python installation") as error:
        python_documentation(tmp_path)
    assert "\n" not in str(error.value)


def test_an_unreadable_source_is_passed_over(tmp_path):
    (tmp_path / "json.py").write_text("def broken(:\n")
    (tmp_path / "heapq.py").write_bytes(b"\xff\xfe")
    (tmp_path / "mine.py").write_text('"""A module that is not of the standard library."""\n')
    (tmp_path / "shelve.py").write_text('"""Keep the objects of a program on a shelf."""\n')
    titles = {passage.title for passage in python_documentation(tmp_path).passages}
    assert "shelve" in titles
    assert not {"json", "heapq", "mine"} & titles


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_is_between_zero_and_one(share):
    with pytest.raises(UserError, match="held-out share"):
        python_documentation(held_out_share=share)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return the\n   absolute  path.", ["Return the absolute path."]),
        ("Return the sum.\n\n>>> add(1, 2)\n3\n\nThe order is kept.", ["The order is kept."]),
        ("Add the first number to the second.\n>>> add(1, 2)\n3", ["Add the first number to the second."]),
        ("dumps(obj, *, indent=None) -> str\n\nTurn it into a string.", ["Turn it into a string."]),
        ("get(key) -> value. Return the value of the key.", ["Return the value of the key."]),
        ("exists(path) -- Test whether a path is there.", ["Test whether a path is there."]),
        (
            "See the ``json`` module, or :func:`~json.dumps` for it.",
            ["See the json module, or json.dumps for it."],
        ),
        (
            "It takes e.g. Paths, i.e. Objects of that class.",
            ["It takes e.g. Paths, i.e. Objects of that class."],
        ),
        (
            "This is the first one. This is the second one!",
            ["This is the first one.", "This is the second one!"],
        ),
        (
            "- Open the file first.\n- Close the file at last.",
            ["Open the file first.", "Close the file at last."],
        ),
        ("name -- The name of the file.", ["The name of the file."]),
        ("Usage\n=====\n\nCall it with the name.", ["Call it with the name."]),
        ("maxsize      the largest size of the queue", []),
        ("| a | table of | the values |", []),
        ("x = the_value + of[the] / list", []),
        ("from os import path", []),
        ("the tail of a sentence without an end", []),
        ("Too short.", []),
        ("It can be used as in the following example of the module:", []),
        ("This sentence ends before the", []),
        ("Copyright of the author, with all rights reserved.", []),
        (" ".join(["The word"] * 31) + ".", []),
        ("", []),
    ],
)
def test_cleaning(docstring, expected):
    assert sentences_of(docstring) == expected
