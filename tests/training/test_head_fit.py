"""Heads that start at the map to the full size: the map itself, the texts it is fitted on, and when it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from matryoshka2d import ElasticEncoder, UserError
from matryoshka2d.data import Mixture, open_mixture, read_mixture
from matryoshka2d.training.fitting import fit_heads, nearest_map
from matryoshka2d.training.texts import texts_of
from matryoshka2d.training.training_options import PRESETS, TrainingOptions
from tests.training import small

TEXTS = [f"{a} {b} {c}" for a in ("a", "two", "no") for b in ("cat", "dog", "man") for c in ("sat", "ran")]


def weights_of(encoder: ElasticEncoder) -> list[Tensor]:
    assert encoder.heads is not None
    return [parameter.detach().clone() for parameter in encoder.heads.parameters()]


@given(
    st.integers(1, 6),
    st.integers(1, 30),
    st.floats(1e-4, 10),
    st.integers(0, 2**32 - 1).map(np.random.default_rng),
)
@settings(max_examples=60, deadline=None)
def test_the_map_is_ridge_regression_towards_the_identity(
    width: int, texts: int, ridge: float, chance: np.random.Generator
) -> None:
    x, y = chance.normal(size=(2, texts, width))
    weight = ridge * np.mean(np.square(x).sum(axis=0))
    # The same problem as plain least squares: rows of the identity, weighted, below the texts.
    rows = np.sqrt(weight) * np.eye(width)
    expected, *_ = np.linalg.lstsq(np.vstack([x, rows]), np.vstack([y, rows]), rcond=None)
    np.testing.assert_allclose(nearest_map(x, y, ridge), expected, atol=1e-6)


def test_a_known_turn_is_found_from_enough_texts_and_the_identity_from_none() -> None:
    chance = np.random.default_rng(0)
    turn, _ = np.linalg.qr(chance.normal(size=(8, 8)))
    x = chance.normal(size=(4000, 8))
    np.testing.assert_allclose(nearest_map(x, x @ turn, ridge=1e-9), turn, atol=1e-6)
    np.testing.assert_allclose(nearest_map(np.empty((0, 8)), np.empty((0, 8))), np.eye(8))


def test_fitted_heads_bring_every_exit_nearer_and_leave_the_full_size(minilm: str) -> None:
    encoder = ElasticEncoder(minilm, device="cpu")
    before = encoder.exits(TEXTS)
    encoder.add_heads()
    fit_heads(encoder, {"": TEXTS})
    after = encoder.exits(TEXTS)
    np.testing.assert_array_equal(after[6], before[6])
    for n in range(1, 6):
        cosines = [float(np.mean(np.sum(vectors[n] * before[6], axis=1))) for vectors in (before, after)]
        assert cosines[1] > cosines[0] + 0.3, (n, cosines)


def test_prompts_stand_before_the_texts_that_heads_are_fitted_on(minilm: str) -> None:
    heads: list[Tensor] = []
    for texts in ({"": TEXTS}, {"query: ": TEXTS}, {"": [f"query: {text}" for text in TEXTS]}):
        encoder = ElasticEncoder(minilm, device="cpu")
        encoder.add_heads()
        fit_heads(encoder, texts)
        heads.append(torch.cat([weight.flatten() for weight in weights_of(encoder)]))
    assert torch.allclose(heads[1], heads[2], atol=1e-5)
    assert not torch.allclose(heads[0], heads[1], atol=1e-3)


@pytest.mark.parametrize("read", [read_mixture, open_mixture])
def test_texts_come_from_every_data_set_once_under_its_prompts(
    read: Callable[..., Mixture[Any]], tmp_path: Path
) -> None:
    pairs, plain = tmp_path / "qa.tsv", tmp_path / "plain.txt"
    pairs.write_text("query\tanswer\n" + "".join(f"who {i % 50}?\tme {i}\n" for i in range(100)))
    plain.write_text("".join(f"line {i}\n" for i in range(100)))
    mixture = read([pairs, plain])
    prompts: dict[str, dict[str, str]] = {"qa": {"anchor": "query: "}, "plain": {}}
    found = texts_of(mixture, prompts, count=40)
    assert list(found) == ["query: ", ""]
    assert 5 <= len(found["query: "]) <= 10
    assert all(text.startswith("who") for text in found["query: "])
    kinds = [text.split()[0] for text in found[""]]
    assert (kinds.count("me"), kinds.count("line")) == (10, 20)
    everything = texts_of(mixture, prompts, count=10_000)
    assert {prompt: len(texts) for prompt, texts in everything.items()} == {"query: ": 50, "": 200}


def test_all_sizes_fits_new_heads_and_those_of_a_trained_model_stay(tmp_path: Path, model: str) -> None:
    still: dict[str, Any] = {
        "learning_rate": 0.0,
        "top_learning_rate": 0.0,
        "head_learning_rate": 0.0,
        "teacher": "self",
    }
    for name in "abc":
        (tmp_path / name).mkdir()
    first = weights_of(small.run(tmp_path / "a", model, strategy="all-sizes", limit=8, **still))
    assert not any(torch.allclose(weight, torch.eye(len(weight)), atol=1e-3) for weight in first)
    trained = str(tmp_path / "a" / "out")
    again = weights_of(small.run(tmp_path / "b", trained, strategy="all-sizes", limit=16, **still))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    plain = small.run(tmp_path / "c", model, strategy="all-sizes", limit=8, fit_heads=False, **still)
    assert all(torch.equal(weight, torch.eye(len(weight))) for weight in weights_of(plain))


def test_fitting_without_heads_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    options = TrainingOptions(data=["nowhere.jsonl"], output=str(tmp_path / "out"), strategy="2dmse")
    from matryoshka2d.training import train

    with pytest.raises(UserError, match="fit_heads without heads: add --heads, or leave it out"):
        train(dataclasses.replace(options, fit_heads=True))


def test_only_presets_with_heads_fit_them() -> None:
    assert {name for name, preset in PRESETS.items() if preset.fit_heads} == {"all-sizes"}
    assert all(preset.heads for preset in PRESETS.values() if preset.fit_heads)
