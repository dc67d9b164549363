"""Tokens are those of the library, whatever the text, and a long text costs no more than its limit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.inference import tokens as module
from matryoshka2d.inference.tokens import TextTokenizer, Tokens, join


@pytest.fixture(scope="module")
def real(minilm: str) -> ElasticEncoder:
    return ElasticEncoder(minilm, device="cpu")


@pytest.fixture(scope="module")
def tokenizer(real: ElasticEncoder) -> TextTokenizer:
    return TextTokenizer(real)


def rows(tokens: Tokens) -> list[list[int]]:
    return [part.tolist() for part in np.split(tokens.ids, np.cumsum(tokens.lengths)[:-1])]


def expected(encoder: ElasticEncoder, texts: list[str]) -> list[list[int]]:
    features = [encoder.preprocess([text])["input_ids"][0] for text in texts]
    return [ids.tolist() for ids in features]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), min_size=1, max_size=12))
def test_they_are_those_of_the_library(
    real: ElasticEncoder, tokenizer: TextTokenizer, texts: list[str]
) -> None:
    assert rows(tokenizer(texts)) == expected(real, texts)


@settings(deadline=None, max_examples=15)
@given(
    words=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=6),
    times=st.integers(200, 2000),
)
def test_a_text_far_over_the_limit_is_cut_to_the_same_tokens(
    real: ElasticEncoder, tokenizer: TextTokenizer, words: list[str], times: int
) -> None:
    text = " ".join(words * times)
    assert rows(tokenizer([text])) == expected(real, [text])


def test_a_text_far_over_the_limit_is_cut_before_it_is_tokenized(
    real: ElasticEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = TextTokenizer(real)
    seen: list[str] = []

    class Noting:
        def encode(self, text: str) -> object:
            seen.append(text)
            return fast.encode(text)

    fast = tokenizer._fast
    monkeypatch.setattr(tokenizer, "_fast", Noting())
    text = "the cat sat on the mat " * 100_000
    assert rows(tokenizer([text])) == expected(real, [text[:10_000]])
    assert sum(map(len, seen)) < 3000


def test_a_model_without_a_fast_tokenizer_takes_the_slow_way(
    real: ElasticEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a cat", "", "the dog " * 400] * 30
    quick = TextTokenizer(real)(texts)
    monkeypatch.setattr(module, "_fast_tokenizer", lambda *_: None)
    slow = TextTokenizer(real)(texts)
    np.testing.assert_array_equal(quick.ids, slow.ids)
    np.testing.assert_array_equal(quick.lengths, slow.lengths)


def test_texts_that_are_cut_are_named(
    real: ElasticEncoder, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 256 tokens fit, two of which the tokenizer adds.
    texts = ["a cat", "cat " * 254, "cat " * 255, "", "cat " * 100_000, "x" * 20_000]
    expected_cut = [2, 4]
    tokens, cut = tokenizer.counted(texts)
    assert cut == expected_cut
    assert tokens.lengths.tolist()[:5] == [4, 256, 256, 2, 256]
    monkeypatch.setattr(module, "_fast_tokenizer", lambda *_: None)
    assert TextTokenizer(real).counted(texts)[1] == expected_cut


LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=20)


def made(lengths: list[int]) -> Tokens:
    return Tokens(np.arange(sum(lengths)), np.array(lengths))


@given(LENGTHS, st.randoms())
def test_taking_rows_takes_their_tokens(lengths: list[int], rng: object) -> None:
    order = list(range(len(lengths)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    all_rows = rows(made(lengths))
    assert rows(made(lengths).take(np.array(order))) == [all_rows[i] for i in order]


@given(LENGTHS)
def test_groups_cover_all_tokens_in_order(lengths: list[int]) -> None:
    spans = [(start, texts * length) for start, texts, length in made(lengths).groups()]
    assert [start for start, _ in spans] == np.cumsum([0, *(count for _, count in spans)])[:-1].tolist()
    assert sum(count for _, count in spans) == sum(lengths)


@given(LENGTHS)
def test_padding_adds_only_padding(lengths: list[int]) -> None:
    ids, mask = made(lengths).padded(99)
    assert ids[mask == 1].tolist() == list(range(sum(lengths)))
    assert (ids[mask == 0] == 99).all()
    assert mask.sum(axis=1).tolist() == lengths


def test_parts_are_joined_in_order() -> None:
    assert rows(join([made([1, 2]), made([3])])) == [[0], [1, 2], [0, 1, 2]]
