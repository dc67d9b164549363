"""The contract that every row of the architecture table keeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel

from matryoshka2d.encoder.architectures import ARCHITECTURES, architecture_of
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from tests import tiny

EVERY = pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
SIDES = pytest.mark.parametrize("padding_side", ["right", "left"])


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def shallow_by_hand(folder: str, layers: int) -> torch.nn.Module:
    """Build the model cut to its first layers from its config and state dict, without our code."""
    config = AutoConfig.from_pretrained(folder)
    state = AutoModel.from_pretrained(folder).state_dict()
    types = getattr(config, "layer_types", None)
    if types is not None:
        config.layer_types = types[:layers]
    config.num_hidden_layers = layers
    model = AutoModel.from_config(config)
    missing, _ = model.load_state_dict(state, strict=False)
    assert not missing
    return model.eval()


def mean_pooled(model: torch.nn.Module, features: dict[str, torch.Tensor]) -> np.ndarray:
    with torch.no_grad():
        states = model(**features).last_hidden_state
    mask = features["attention_mask"].unsqueeze(-1).float()
    return unit(((states * mask).sum(1) / mask.sum(1)).numpy())


@EVERY
@SIDES
def test_exit_n_equals_the_model_cut_to_n_layers(tmp_path: Path, model_type: str, padding_side: str) -> None:
    folder = tiny.checkpoint(tmp_path, model_type, padding_side)
    encoder = ElasticEncoder(folder, pooling="mean", device="cpu")
    features = encoder.preprocess(tiny.TEXTS)
    inputs = {k: v for k, v in features.items() if isinstance(v, torch.Tensor)}
    exits = encoder.exits(tiny.TEXTS, batch_size=len(tiny.TEXTS))
    for layers in range(1, tiny.LAYERS + 1):
        by_hand = mean_pooled(shallow_by_hand(folder, layers), inputs)
        np.testing.assert_allclose(exits[layers], by_hand, atol=2e-5)
    neighbors = [np.abs(exits[n] - exits[n + 1]).max() for n in range(1, tiny.LAYERS)]
    assert min(neighbors) > 1e-2, "exits must differ for this test to mean anything"


@EVERY
def test_truncate_saves_a_model_that_stock_loads(tmp_path: Path, model_type: str) -> None:
    folder = tiny.sentence_model(tmp_path / "source", model_type, pooling="mean", dense=True)
    encoder = ElasticEncoder(folder, device="cpu")
    expected = encoder.encode(tiny.TEXTS, size="2x8")
    encoder.truncate("2x8").save(str(tmp_path / "small"))
    stock = SentenceTransformer(str(tmp_path / "small"), device="cpu")
    np.testing.assert_allclose(stock.encode(tiny.TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert AutoConfig.from_pretrained(tmp_path / "small").num_hidden_layers == 2
    assert config["matryoshka_dimensions"] == [8]
    if "layer_types" in config:
        assert len(config["layer_types"]) == 2


@EVERY
def test_the_saved_elastic_model_is_its_full_size_in_stock(tmp_path: Path, model_type: str) -> None:
    folder = tiny.sentence_model(tmp_path / "source", model_type, dense=True, normalize=False)
    encoder = ElasticEncoder(folder, device="cpu")
    heads = encoder.add_heads()
    with torch.no_grad():
        for head in heads.dense.values():
            head.linear.weight.normal_()
    encoder.save(str(tmp_path / "elastic"), create_model_card=False)
    stock = SentenceTransformer(str(tmp_path / "elastic"), device="cpu")
    np.testing.assert_allclose(stock.encode(tiny.TEXTS), encoder.encode(tiny.TEXTS), atol=1e-6)
    again = ElasticEncoder(str(tmp_path / "elastic"), device="cpu")
    for size in ("1x8", "3x16", "4x24"):
        np.testing.assert_allclose(
            again.encode(tiny.TEXTS, size=size), encoder.encode(tiny.TEXTS, size=size), atol=1e-6
        )


@EVERY
def test_loading_at_a_size_loads_only_its_layers(tmp_path: Path, model_type: str) -> None:
    folder = tiny.sentence_model(tmp_path, model_type)
    full = ElasticEncoder(folder, device="cpu")
    small = ElasticEncoder(folder, size="2x16", device="cpu")
    assert small.depth == 2
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in full.parameters())
    np.testing.assert_allclose(small.encode(tiny.TEXTS), full.encode(tiny.TEXTS, size="2x16"), atol=1e-6)


def test_an_unknown_architecture_names_the_known_ones_and_the_mend() -> None:
    config = AutoConfig.for_model("albert")
    with pytest.raises(UserError, match=r"'albert' is not known.*bert.*ARCHITECTURES\['albert'\]") as raised:
        architecture_of(config)
    assert "\n" not in str(raised.value)
