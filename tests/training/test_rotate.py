"""rotate(): narrow sizes made better, full width left alone, and the same at the end of train()."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from matryoshka2d import ElasticEncoder, RotateOptions, UserError, fit, rotate, train
from tests import tiny
from tests.training import small
from tests.training.test_fitting import PROSE


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(PROSE) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def fitted(minilm: str, texts: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("fitted") / "model"
    fit(model=minilm, data=texts, output=str(folder), device="cpu", quiet=True)
    return str(folder)


@pytest.fixture(scope="module")
def rotated(fitted: str, texts: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rotated") / "model"
    rotate(model=fitted, data=texts, output=str(folder), device="cpu", quiet=True)
    return folder


def cosines(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors @ vectors.T)


def test_no_cosine_at_full_width_changes_at_any_depth(rotated: Path, fitted: str) -> None:
    before, after = (ElasticEncoder(str(m), device="cpu").exits(PROSE[:16]) for m in (fitted, rotated))
    assert np.abs(before[6] - after[6]).max() > 0.01
    for n in before:
        np.testing.assert_allclose(cosines(after[n]), cosines(before[n]), atol=1e-5)
        np.testing.assert_allclose(after[n] @ after[6].T, before[n] @ before[6].T, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_model_in_half_precision_is_turned_and_written_in_float32(
    tmp_path: Path, texts: str, dtype: torch.dtype
) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path / "source"), device="cpu")
    encoder.add_heads()
    encoder.to(dtype).save(str(tmp_path / "half"), create_model_card=False)
    rotate(model=str(tmp_path / "half"), data=texts, output=str(tmp_path / "out"), device="cpu", quiet=True)
    half = ElasticEncoder(str(tmp_path / "half"), device="cpu")
    assert half.dtype == dtype
    turned = ElasticEncoder(str(tmp_path / "out"), device="cpu")
    assert {parameter.dtype for parameter in turned.parameters()} == {torch.float32}
    before, after = half.float().exits(tiny.TEXTS), turned.exits(tiny.TEXTS)
    assert np.abs(before[4] - after[4]).max() > 0.01
    for n in before:
        np.testing.assert_allclose(cosines(after[n]), cosines(before[n]), atol=1e-5)


def test_narrow_prefixes_agree_better_on_texts_that_were_left_out(rotated: Path) -> None:
    record = json.loads((rotated / "elastic.json").read_text(encoding="utf-8"))
    recall = record["rotation"]["recall"]
    assert list(recall) == ["8", "16", "32", "64", "128", "192", "256"]
    # So few texts say nothing of the wide prefixes, which are near the full size already.
    assert recall["8"][1] > recall["8"][0], recall
    assert record["fit"]["cosines"], "what was known of the model stays known"


def test_stock_sentence_transformers_turns_its_vectors_too(rotated: Path, tmp_path: Path) -> None:
    ours = ElasticEncoder(str(rotated), device="cpu")
    stock = SentenceTransformer(str(rotated), device="cpu", truncate_dim=32).encode(
        PROSE[:8], normalize_embeddings=True
    )
    np.testing.assert_allclose(stock, ours.encode(PROSE[:8], size="6x32"), atol=1e-5)
    ours.truncate("3x32").save(str(tmp_path / "cut"))
    plain = SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    assert [type(module).__name__ for module in plain] == ["Transformer", "Pooling", "Dense", "Normalize"]
    cut = plain.encode(PROSE[:8])
    np.testing.assert_allclose(cut, ours.encode(PROSE[:8], size="3x32"), atol=1e-5)
    whole = ours.truncate("6x384").encode(PROSE[:8])
    np.testing.assert_allclose(whole, ours.encode(PROSE[:8], size="6x384"), atol=1e-5)


def test_the_card_says_what_was_done_and_how_to_do_it_again(rotated: Path, fitted: str) -> None:
    card = (rotated / "README.md").read_text(encoding="utf-8")
    assert "nothing was trained" in card
    assert f"matryoshka2d rotate --model {fitted}" in card
    rows = [line for line in card.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [row.split("|")[1].strip() for row in rows] == ["8", "16", "32", "64", "128", "192", "256"]


def test_a_model_is_turned_twice_as_once_by_the_product(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    encoder.add_heads()
    chance = np.random.default_rng(0)
    with torch.no_grad():
        for head in encoder.heads.dense.values():  # type: ignore[union-attr]
            head.linear.weight.normal_()  # type: ignore[operator, union-attr]
    before = encoder.exits(tiny.TEXTS)
    one, two = (np.linalg.qr(chance.normal(size=(encoder.width,) * 2))[0] for _ in range(2))
    encoder.rotate(one)
    encoder.rotate(two)
    assert len([name for name, _ in encoder.named_children() if name == "rotation"]) == 1
    for n, vectors in encoder.exits(tiny.TEXTS).items():
        np.testing.assert_allclose(vectors, before[n] @ one @ two, atol=1e-5)


def test_a_rotated_model_loads_and_trains_around_its_rotation(rotated: Path, tmp_path: Path) -> None:
    def rotation(encoder: ElasticEncoder) -> torch.Tensor:
        return encoder.state_dict()["rotation.linear.weight"].clone()

    before = ElasticEncoder(str(rotated), device="cpu")
    assert not any(p.requires_grad for name, p in before.named_parameters() if name.startswith("rotation"))
    trained = small.run(tmp_path, str(rotated), rotate=False, learning_rate=1e-3, teacher="self")
    torch.testing.assert_close(rotation(trained), rotation(before), rtol=0, atol=0)
    assert np.abs(trained.encode(PROSE[:2]) - before.encode(PROSE[:2])).max() > 1e-4


@pytest.mark.parametrize("matrix", [np.eye(3), np.ones((32, 32)), 2 * np.eye(32)])
def test_what_is_no_rotation_of_the_model_is_refused(tmp_path: Path, matrix: np.ndarray) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    with pytest.raises(UserError, match="rotation"):
        encoder.rotate(matrix)
    assert "rotation" not in dict(encoder.named_children())


def test_what_cannot_be_rotated_is_said_and_nothing_is_written(
    tmp_path: Path, model: str, texts: str
) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match="serves sizes of fewer than all 32 dims"):
        rotate(model=model, data=texts, output=out, sizes="1-4x32", quiet=True)
    with pytest.raises(UserError, match="9x8"):
        rotate(model=model, data=texts, output=out, sizes="9x8", quiet=True)
    with pytest.raises(UserError, match="put seed into the RotateOptions"):
        rotate(RotateOptions(data=[texts], output=out), seed=1)
    assert not Path(out).exists()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_texts_that_are_too_few_to_rank_are_refused(tmp_path: Path, model: str, count: int) -> None:
    (tmp_path / "few.txt").write_text("".join(f"a cat saw {n} dogs\n" for n in range(count)))
    with pytest.raises(UserError, match=f"too few texts for a rotation.*: {count} given"):
        rotate(model=model, data=str(tmp_path / "few.txt"), output=str(tmp_path / "out"), quiet=True)
    assert not (tmp_path / "out").exists()


def test_four_texts_are_enough_to_run(tmp_path: Path, model: str) -> None:
    (tmp_path / "four.txt").write_text("\n".join(tiny.TEXTS[:4]))
    made = rotate(model=model, data=str(tmp_path / "four.txt"), output=str(tmp_path / "out"), quiet=True)
    turned = made.state_dict()["rotation.linear.weight"]
    assert (turned - torch.eye(len(turned))).abs().max() > 1e-4


# --- at the end of training -------------------------------------------------------------------------


def test_training_turns_the_space_at_its_end_and_changes_nothing_else(tmp_path: Path, model: str) -> None:
    plain = small.run(tmp_path, model, "plain", rotate=False, teacher="self")
    turned = small.run(tmp_path, model, "turned", rotate=None, teacher="self")
    assert "rotation" in dict(turned.named_children())
    assert "rotation" not in dict(plain.named_children())
    before, after = plain.exits(tiny.TEXTS), turned.exits(tiny.TEXTS)
    for n in before:
        np.testing.assert_allclose(cosines(after[n]), cosines(before[n]), atol=1e-5)
    again = small.load(tmp_path / "turned").exits(tiny.TEXTS)
    np.testing.assert_allclose(again[2], after[2], atol=1e-6)


@pytest.mark.parametrize(
    ("choices", "turned"),
    [
        ({}, True),
        ({"teacher": "original"}, False),
        ({"objective": "distillation"}, False),
        ({"objective": "distillation", "rotate": True}, True),
        ({"strategy": "2dmse"}, False),
        ({"strategy": "2dmse", "rotate": True}, True),
        ({"strategy_options": {"sizes": "1-4x32"}, "teacher": "self"}, False),
    ],
)
def test_when_the_space_is_turned(
    tmp_path: Path, model: str, choices: dict[str, object], turned: bool
) -> None:
    made = small.run(tmp_path, model, **{"rotate": None, **choices})
    assert ("rotation" in dict(made.named_children())) == turned


def test_training_on_texts_that_are_too_few_to_rank_says_that_the_space_is_not_turned(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = small.data_file(tmp_path, count=1)
    made = train(model=model, data=[pair], output=str(tmp_path / "out"), teacher="self", checkpoints=False)
    assert "too few texts to turn the space by" in capsys.readouterr().err
    assert "rotation" not in dict(made.named_children())


def test_a_rotation_that_would_serve_no_size_is_refused_before_anything_is_trained(
    tmp_path: Path, model: str
) -> None:
    with pytest.raises(UserError, match="or leave the rotation out"):
        small.run(tmp_path, model, rotate=True, strategy_options={"sizes": "1-4x32"})
    assert not (tmp_path / "out").exists()
