"""fit(): an elastic model without training, whose full size is the one that it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from matryoshka2d import ElasticEncoder, FitOptions, UserError, fit
from tests import tiny
from tests.training import small

PROSE = [
    f"{who} {does} {what} {when}."
    for who in ("The minister", "A cat", "My neighbor", "The engine", "Nobody")
    for does in ("sold", "watched", "broke", "forgot")
    for what in ("the old bridge", "a bowl of soup", "three letters", "the final game")
    for when in ("yesterday", "in the rain", "for money")
]


@pytest.fixture(scope="module")
def fitted(minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "texts.txt").write_text("\n".join(PROSE) + "\n", encoding="utf-8")
    fit(model=minilm, data=str(folder / "texts.txt"), output=str(folder / "model"), device="cpu", quiet=True)
    return folder / "model"


def test_the_full_size_is_bit_for_bit_the_model_that_it_was(fitted: Path, minilm: str) -> None:
    before = SentenceTransformer(minilm, device="cpu").encode(PROSE[:8])
    np.testing.assert_array_equal(SentenceTransformer(str(fitted), device="cpu").encode(PROSE[:8]), before)
    np.testing.assert_array_equal(ElasticEncoder(str(fitted), device="cpu").encode(PROSE[:8]), before)


def test_inner_exits_are_nearer_on_texts_that_were_not_fitted_on(fitted: Path) -> None:
    record = json.loads((fitted / "elastic.json").read_text(encoding="utf-8"))
    cosines = record["fit"]["cosines"]
    assert list(cosines) == ["1", "2", "3", "4", "5"]
    assert all(after > before + 0.2 for before, after in cosines.values()), cosines


def test_a_fitted_size_is_cut_and_trained_like_any_other(fitted: Path, tmp_path: Path) -> None:
    encoder = ElasticEncoder(str(fitted), device="cpu")
    encoder.truncate("3x128").save(str(tmp_path / "cut"))
    stock = SentenceTransformer(str(tmp_path / "cut"), device="cpu").encode(PROSE[:4])
    np.testing.assert_allclose(stock, encoder.encode(PROSE[:4], size="3x128"), atol=1e-5)


def test_the_same_seed_draws_the_same_texts_and_another_one_others(tmp_path: Path, model: str) -> None:
    data = small.data_file(tmp_path, "triplets", count=60)
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        made = fit(
            model=model, data=data, output=str(tmp_path / f"{number}"), texts=60, seed=seed, quiet=True
        )
        assert made.heads is not None
        weights.append(np.concatenate([w.detach().numpy().ravel() for w in made.heads.parameters()]))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 1e-3


def test_too_little_memory_is_said_in_one_line(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(ElasticEncoder, "exit_vectors", run_out)
    with pytest.raises(UserError, match="out of memory with 128 tokens a text: lower --max-length"):
        fit(model=model, data=small.data_file(tmp_path), output=str(tmp_path / "out"), quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("count", "said"), [(1, "1 to learn from, 0"), (2, "1 to"), (94, ", 9 to"), (95, "")]
)
def test_no_fit_is_judged_by_the_texts_that_it_was_fitted_to_and_few_judges_are_warned_of(
    tmp_path: Path, model: str, count: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = small.data_file(tmp_path, "texts", count)
    made = fit(model=model, data=data, output=str(tmp_path / "out"))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == bool(said)
    assert said in "".join(warnings)
    assert list(made.record["fit"]["cosines"]) == (["1", "2", "3"] if count > 1 else [])


def test_the_card_says_what_was_done_and_how_to_do_it_again(fitted: Path) -> None:
    card = (fitted / "README.md").read_text(encoding="utf-8")
    assert "nothing was trained" in card
    assert "matryoshka2d fit --model" in card
    rows = [line for line in card.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [row.split("|")[1].strip() for row in rows] == ["1", "2", "3", "4", "5"]


def test_what_cannot_be_fitted_is_said_and_nothing_is_written(tmp_path: Path, model: str) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(tiny.TEXTS) + "\n")
    (tmp_path / "shallow").mkdir()
    shallow = tiny.sentence_model(tmp_path / "shallow", num_hidden_layers=1)
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match="has one layer, so no inner exit"):
        fit(model=shallow, data=str(texts), output=out, quiet=True)
    elastic = str(tmp_path / "elastic")
    fit(model=model, data=str(texts), output=elastic, quiet=True)
    with pytest.raises(UserError, match="has heads already, trained or fitted"):
        fit(model=elastic, data=str(texts), output=out, quiet=True)
    with pytest.raises(UserError, match="choices beside options: put seed into the FitOptions"):
        fit(FitOptions(data=[str(texts)], output=out), seed=1)
    assert not Path(out).exists()
