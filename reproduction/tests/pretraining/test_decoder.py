"""The decoder knows of the text what the vector says and what the heavy mask leaves, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reproduction.tests.pretraining import small
from tests import tiny

from matryoshka2d_reproduction.pretraining.decoder import Decoder


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_of_a_wholly_masked_text_it_sees_the_vector_alone(tmp_path: Path, model_type: str, side: str) -> None:
    torch.manual_seed(0)
    folder = tiny.sentence_model(tmp_path, model_type, padding_side=side)
    objective = small.objective(folder)
    encoder, decoder = objective.encoder, objective.decoder
    made = [
        small.batch(encoder, given, heavy=1.0)
        for given in (["a cat sat", "the dog runs fast"], ["red house sun", "mat in the rain"])
    ]
    heavy = [{**one["features"], "input_ids": one["heavy_ids"]} for one in made]
    vectors = torch.randn(2, encoder.width)
    with torch.no_grad():
        one, other = (decoder(encoder, features, vectors) for features in heavy)
        changed = decoder(encoder, heavy[0], vectors + torch.randn(2, encoder.width))
    real = heavy[0]["attention_mask"].bool()
    assert torch.equal(one[real], other[real])
    assert ((one - changed).abs().amax(dim=-1)[real] > 1e-4).all()


def test_the_first_token_is_not_seen(model: str) -> None:
    objective = small.objective(model)
    made = small.batch(objective.encoder)
    heavy = {**made["features"], "input_ids": made["heavy_ids"]}
    other = {**heavy, "input_ids": heavy["input_ids"].clone()}
    other["input_ids"][:, 0] = 9
    vectors = torch.randn(len(heavy["input_ids"]), objective.encoder.width)
    with torch.no_grad():
        found = [objective.decoder(objective.encoder, features, vectors) for features in (heavy, other)]
    assert torch.equal(*found)


def test_it_starts_from_the_first_layer_and_shares_nothing_with_it(model: str) -> None:
    encoder = small.objective(model).encoder
    decoder = Decoder(encoder)
    first = dict(encoder.base.encoder.layer[0].named_parameters())
    for name, parameter in decoder.layer.named_parameters():
        assert torch.equal(parameter, first[name])
        assert parameter is not first[name]
    assert decoder.layer.attention.self.config is encoder.base.config
