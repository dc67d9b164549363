"""The two masked copies: what is hidden, what is predicted, and what rng depends on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reproduction.tests.pretraining import small

from matryoshka2d import ElasticEncoder
from matryoshka2d_reproduction.pretraining.masking import UNMASKED, at_most


@pytest.fixture(scope="module")
def encoder(model: str) -> ElasticEncoder:
    return ElasticEncoder(model, device="cpu")


@settings(max_examples=30, deadline=None)
@given(
    light=st.floats(0.01, 0.99),
    heavy=st.floats(0.01, 1.0),
    predictions=st.integers(1, 60),
    count=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_labels_are_the_hidden_tokens_and_everything_else_is_as_it_was(
    encoder: ElasticEncoder, light: float, heavy: float, predictions: int, count: int, seed: int
) -> None:
    texts = small.texts(count)
    made = small.batch(encoder, texts, light=light, heavy=heavy, predictions=predictions, seed=seed)
    plain = encoder.preprocess(texts)["input_ids"]
    special = torch.isin(plain, torch.tensor(encoder.tokenizer.all_special_ids))
    mask = encoder.tokenizer.mask_token_id
    for ids, labels in (
        (made["features"]["input_ids"], made["labels"]),
        (made["heavy_ids"], made["heavy_labels"]),
    ):
        chosen = labels != UNMASKED
        assert torch.equal(labels[chosen], plain[chosen])
        assert chosen.sum() <= predictions
        assert not (chosen & special).any()
        assert torch.equal(ids[special], plain[special])
    heavy_ids, heavy_labels = made["heavy_ids"], made["heavy_labels"]
    # What the decoder is to predict it never sees, and it sees no word that is not there.
    assert (heavy_ids[heavy_labels != UNMASKED] == mask).all()
    assert ((heavy_ids == mask) | (heavy_ids == plain)).all()


def test_as_many_tokens_are_masked_as_was_asked_for(encoder: ElasticEncoder) -> None:
    made = small.batch(encoder, small.texts(400), light=0.3, heavy=0.7, predictions=10**6)
    words = ~torch.isin(
        encoder.preprocess(small.texts(400))["input_ids"], torch.tensor(encoder.tokenizer.all_special_ids)
    )
    for labels, share in ((made["labels"], 0.3), (made["heavy_labels"], 0.7)):
        assert (labels[words] != UNMASKED).float().mean().item() == pytest.approx(share, abs=0.03)


def test_a_decoder_mask_of_one_leaves_no_word(encoder: ElasticEncoder) -> None:
    ids = small.batch(encoder, heavy=1.0)["heavy_ids"]
    left = set(ids.unique().tolist())
    assert left <= set(encoder.tokenizer.all_special_ids)


def test_masks_depend_on_the_seed_and_the_number_of_the_batch_alone(encoder: ElasticEncoder) -> None:
    rows = [{"text": text} for text in small.texts(8)]
    first, second = (small.collator(encoder) for _ in range(2))
    one, two = first(rows), first(rows)
    second.batch = 1
    torch.manual_seed(123)
    again = second(rows)
    assert torch.equal(two["heavy_ids"], again["heavy_ids"])
    assert torch.equal(two["features"]["input_ids"], again["features"]["input_ids"])
    assert not torch.equal(one["heavy_ids"], two["heavy_ids"])
    assert not torch.equal(small.collator(encoder, seed=1)(rows)["heavy_ids"], one["heavy_ids"])


@given(st.integers(0, 30), st.integers(1, 40))
def test_of_more_labels_than_allowed_some_are_drawn_and_of_fewer_none_is_lost(
    labelled: int, most: int
) -> None:
    labels = torch.full((5, 6), UNMASKED)
    labels.view(-1)[:labelled] = torch.arange(labelled)
    kept = at_most(labels, most, torch.Generator().manual_seed(0))
    assert (kept != UNMASKED).sum() == min(labelled, most)
    assert ((kept == labels) | (kept == UNMASKED)).all()
