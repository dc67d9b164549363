from __future__ import annotations

import pytest

from matryoshka2d.data.row_formats import (
    FORMATS,
    POSITIVE_PAIRS,
    SCORED_PAIRS,
    TEXTS,
    TRIPLETS,
    Format,
    format_of,
    recognize,
    text_columns,
)
from matryoshka2d.errors import UserError


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["anchor", "positive"], POSITIVE_PAIRS),
        (["query", "answer"], POSITIVE_PAIRS),
        (["Question 1", "Question 2"], POSITIVE_PAIRS),
        (["premise", "hypothesis", "label"], SCORED_PAIRS),
        (["subset", "split", "score", "sentence1", "sentence2"], SCORED_PAIRS),
        (["pair_ID", "sentence_A", "sentence_B", "relatedness_score"], SCORED_PAIRS),
        (["text1", "text2", "similarity"], SCORED_PAIRS),
        (["anchor", "positive", "negative", "source"], TRIPLETS),
        (["query", "positive", "hard-negative"], TRIPLETS),
        (["premise", "entailment", "contradiction"], TRIPLETS),
        (["text"], TEXTS),
        (["_id", "title", "text", "metadata"], TEXTS),
        (["sentence", "idx"], TEXTS),
    ],
)
def test_usual_names_are_recognized(found: list[str], expected: Format) -> None:
    assert recognize(found).format is expected


@pytest.mark.parametrize("known", FORMATS)
def test_canonical_names_are_recognized_as_their_own_format(known: Format) -> None:
    layout = recognize(list(reversed(known.columns)))
    assert layout.format is known
    assert layout.columns == tuple((name, name) for name in known.columns)
    assert format_of(name for name, _ in layout.columns) is known


def test_a_canonical_name_wins_over_another_usual_one() -> None:
    assert recognize(["query", "anchor", "positive"]).columns[0] == ("anchor", "anchor")
    assert recognize(["query", "anchor", "positive", "score"]).columns[0] == ("sentence1", "anchor")


def test_several_negatives_are_numbered_in_their_order() -> None:
    layout = recognize(["anchor", "positive", "negative_10", "negative_2", "negative"])
    assert layout.columns[2:] == (
        ("negative_1", "negative"),
        ("negative_2", "negative_2"),
        ("negative_3", "negative_10"),
    )


def test_no_column_name_is_a_prefix_of_another() -> None:
    # The trainer gathers "negative_*" for the column "negative": it would take "negative_2_input_ids" too.
    layout = recognize(["anchor", "positive", *(f"neg{n}" for n in range(12))])
    names = [name for name, _ in layout.columns]
    assert not any(other.startswith(f"{name}_") for name in names for other in names)


def test_the_group_is_found_and_is_optional() -> None:
    assert recognize(["anchor", "positive", "group_id"]).group == "group_id"
    assert recognize(["anchor", "positive"]).group is None
    assert recognize(["anchor", "positive", "c"], {"group": "c"}).group == "c"


def test_named_columns_that_make_up_a_format_are_used_alone() -> None:
    layout = recognize(["a", "b", "score", "negative"], {"anchor": "a", "positive": "b"})
    assert layout.format is POSITIVE_PAIRS
    assert layout.columns == (("anchor", "a"), ("positive", "b"))


def test_named_columns_are_completed_by_usual_ones() -> None:
    layout = recognize(["sentence1", "sentence2", "gold"], {"score": "gold"})
    assert layout.columns == (("sentence1", "sentence1"), ("sentence2", "sentence2"), ("score", "gold"))


def test_named_negatives() -> None:
    named = {"anchor": "a", "positive": "b", "negative_2": "d", "negative_1": "c"}
    layout = recognize(["a", "b", "c", "d", "negative"], named)
    assert layout.columns[2:] == (("negative_1", "c"), ("negative_2", "d"))


@pytest.mark.parametrize(
    ("found", "named", "parts"),
    [
        (["x", "y"], None, ["f.csv", "'x', 'y'", "not recognized"]),
        ([], None, ["found none"]),
        (["anchor", "positve"], {"positive": "positive"}, ["'positive'", "'positve'", "Did you mean"]),
        (["a", "b"], {"ancor": "a"}, ["'ancor'", "Did you mean 'anchor'"]),
        (["a", "b"], {"anchor": "a", "text": "b"}, ["'anchor', 'text'"]),
        (["a", "b"], {"anchor": "a", "positive": "a"}, ["'a'", "two places"]),
        (["query", "question", "answer"], None, ["'query', 'question'", "anchor=query"]),
        (["x" * 500 + "\n", *"abcdefghijklmnop"], None, ["…"]),
    ],
)
def test_mistakes_are_one_line(found: list[str], named: dict[str, str] | None, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        recognize(found, named, source="f.csv")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("f.csv")
    assert len(message) < 500
    assert all(part in message for part in parts), message


def test_text_columns() -> None:
    assert text_columns(["anchor", "positive", "negative", "group", "dataset_name", "score"]) == [
        "anchor",
        "positive",
        "negative",
    ]
    assert text_columns(["a", "stars"], labels=["stars"]) == ["a"]
