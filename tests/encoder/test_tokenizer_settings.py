"""What a tokenizer leaves out, or says wrongly, changes no vector: its padding token, its side, its limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from matryoshka2d.encoder.architectures import ARCHITECTURES, learned_positions
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.export.exporter import export_model
from matryoshka2d.inference import open_engine
from tests import tiny

EVERY = pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
POSITIONS = 64
LONG = "the cat sat on the red mat " * 30


def said(folder: str, **settings: Any) -> None:
    """Change what the tokenizer of a saved model says; None takes a setting out."""
    path = Path(folder) / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def without_padding(folder: str) -> None:
    """Take the padding token out of a saved tokenizer, the one in tokenizer.json included."""
    said(folder, pad_token=None)
    path = Path(folder) / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["padding"] = None
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] != "[PAD]"]
    path.write_text(json.dumps(raw))


def same_alone_and_beside_others(encoder: ElasticEncoder, texts: list[str]) -> np.ndarray:
    """Check that encoder, exits and engine give each text the same vector, alone and beside all others."""
    alone = np.concatenate([encoder.encode([text], size="3x32") for text in texts])
    together = encoder.encode(texts, size="3x32")
    np.testing.assert_allclose(together, alone, atol=2e-5)
    np.testing.assert_allclose(encoder.exits(texts)[3], alone, atol=2e-5)
    engine = open_engine(encoder, precision="fp32", device="cpu")
    np.testing.assert_allclose(engine.embed(texts, "3x32"), alone, atol=2e-5)
    assert np.ptp(alone, axis=0).max() > 1e-2, "texts must differ for this test to mean anything"
    return alone


@pytest.mark.parametrize(
    ("model_type", "pooling"), [*((name, "mean") for name in sorted(ARCHITECTURES)), ("bert", "cls")]
)
def test_padding_on_the_left_shifts_no_text(tmp_path: Path, model_type: str, pooling: str) -> None:
    folder = tiny.sentence_model(tmp_path, model_type, padding_side="left", pooling=pooling)
    vectors = same_alone_and_beside_others(ElasticEncoder(folder, device="cpu"), tiny.TEXTS)
    stock = SentenceTransformer(folder, device="cpu")
    encoder = ElasticEncoder(folder, device="cpu")
    np.testing.assert_allclose(encoder.encode(tiny.TEXTS[0]), stock.encode(tiny.TEXTS[0]), atol=1e-5)
    assert vectors.shape == (len(tiny.TEXTS), tiny.WIDTH)


@EVERY
def test_a_text_is_cut_where_the_positions_end(tmp_path: Path, model_type: str) -> None:
    folder = tiny.sentence_model(tmp_path, model_type)
    said(folder, model_max_length=None)
    encoder = ElasticEncoder(folder, device="cpu")
    room = learned_positions(encoder.base)
    assert encoder.max_seq_length == (room or POSITIONS)
    same_alone_and_beside_others(encoder, [LONG, "cat"])


@pytest.mark.parametrize(
    ("model_type", "padding_id", "room"),
    [
        ("bert", 0, 64),
        ("electra", 0, 64),
        ("distilbert", 0, 64),
        ("roberta", 1, 62),
        ("xlm-roberta", 1, 62),
        ("camembert", 5, 58),
        ("mpnet", 1, 62),
    ],
)
@pytest.mark.parametrize("limit", [None, 64, 512], ids=str)
def test_the_room_is_the_positions_less_those_of_the_padding(
    tmp_path: Path, model_type: str, padding_id: int, room: int, limit: int | None
) -> None:
    folder = tiny.sentence_model(tmp_path, model_type, pad_token_id=padding_id)
    said(folder, model_max_length=limit)
    encoder = ElasticEncoder(folder, device="cpu")
    assert encoder.max_seq_length == room
    features = encoder.preprocess([LONG])
    assert features["input_ids"].shape == (1, room)
    assert torch.isfinite(encoder(features)["sentence_embedding"]).all()
    encoder.truncate("2x8").save(str(tmp_path / "small"), create_model_card=False)
    # Stock forgets that it was told, and takes the number of positions: what is written must say it.
    written = json.loads((tmp_path / "small" / "tokenizer_config.json").read_text())
    assert written["model_max_length"] == room
    assert np.isfinite(SentenceTransformer(str(tmp_path / "small"), device="cpu").encode(LONG)).all()


def test_a_shorter_limit_stays(tmp_path: Path) -> None:
    folder = tiny.sentence_model(tmp_path)
    said(folder, model_max_length=17)
    assert ElasticEncoder(folder, device="cpu").max_seq_length == 17


@EVERY
def test_without_a_padding_token_every_vector_is_as_with_one(tmp_path: Path, model_type: str) -> None:
    folder = tiny.sentence_model(tmp_path, model_type)
    expected = np.concatenate(
        [ElasticEncoder(folder, device="cpu").encode([text], size="3x32") for text in tiny.TEXTS]
    )
    without_padding(folder)
    with pytest.raises(ValueError, match="does not have a padding token"):
        SentenceTransformer(folder, device="cpu").encode(tiny.TEXTS)
    encoder = ElasticEncoder(folder, device="cpu")
    np.testing.assert_allclose(same_alone_and_beside_others(encoder, tiny.TEXTS), expected, atol=2e-5)
    encoder.save(str(tmp_path / "saved"), create_model_card=False)
    stock = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(stock.encode(tiny.TEXTS), encoder.encode(tiny.TEXTS), atol=2e-5)


def test_an_export_pads_although_its_source_could_not(tmp_path: Path) -> None:
    folder = tiny.sentence_model(tmp_path)
    without_padding(folder)
    found = export_model(folder, tmp_path / "export", size="2x8")
    (agreement,) = found.agreements.values()
    assert agreement.difference < 1e-5
    assert agreement.alone is not None
    assert agreement.alone > 0.99999


def test_no_word_is_taken_for_padding(tmp_path: Path) -> None:
    folder = tiny.sentence_model(tmp_path)
    without_padding(folder)
    path = Path(folder) / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["added_tokens"], raw["post_processor"] = [], None
    path.write_text(json.dumps(raw))
    said(folder, **dict.fromkeys(("unk_token", "cls_token", "sep_token", "mask_token")))
    (Path(folder) / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="no padding token and no other special token") as raised:
        ElasticEncoder(folder, device="cpu")
    assert "\n" not in str(raised.value)
