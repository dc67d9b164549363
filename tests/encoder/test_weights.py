"""Weights that are no numbers are refused where models are read and where they are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from torch import nn

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.finite import check_weights
from matryoshka2d.encoder.loading import settled
from matryoshka2d.errors import UserError
from matryoshka2d.export.exporter import export_model
from matryoshka2d.inference import open_engine
from tests import tiny

TYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@given(shape=st.tuples(st.integers(1, 5), st.integers(1, 7)), dtype=TYPES, data=st.data())
def test_one_bad_number_anywhere_is_found_and_counted(
    shape: tuple[int, int], dtype: torch.dtype, data: st.DataObject
) -> None:
    layer = nn.Linear(*shape).to(dtype).requires_grad_(False)
    with torch.no_grad():
        layer.weight.fill_(torch.finfo(dtype).max)
    check_weights(layer, "it")
    check_weights(layer, "it", dtype)
    place = data.draw(st.integers(0, layer.weight.numel() - 1))
    layer.weight.view(-1)[place] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    with pytest.raises(
        UserError, match=f"it holds weights that are not finite: weight, 1 of {shape[0] * shape[1]} "
    ):
        check_weights(layer, "it")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_number_that_a_narrower_type_does_not_have_is_refused(sign: float) -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.bias[1] = sign * 7e4
    check_weights(layer, "it", torch.bfloat16)
    with pytest.raises(
        UserError, match=r"in float16: bias holds 7e\+04, and the largest number there is 6.55e\+04"
    ):
        check_weights(layer, "it", torch.float16)


def test_a_mask_of_infinities_is_no_weight() -> None:
    module = nn.Module()
    module.register_buffer("mask", torch.full((2, 2), -torch.inf))
    check_weights(module, "it")


def spoilt(folder: Path, where: Callable[[SentenceTransformer], Any]) -> str:
    """Write a stock model with one weight that is no number."""
    model = SentenceTransformer(tiny.sentence_model(folder / "source", dense=True), device="cpu")
    with torch.no_grad():
        where(model).view(-1)[3] = torch.nan
    model.save(str(folder / "spoilt"), create_model_card=False)
    return str(folder / "spoilt")


@pytest.mark.parametrize(
    "where",
    [lambda model: model[0].model.encoder.layer[2].output.dense.bias, lambda model: model[2].linear.weight],
    ids=["in a layer", "in a module after the layers"],
)
def test_such_a_model_is_not_loaded(tmp_path: Path, where: Callable[[SentenceTransformer], Any]) -> None:
    model = spoilt(tmp_path, where)
    for load in (
        lambda: ElasticEncoder(model, device="cpu"),
        lambda: open_engine(model, device="cpu"),
        lambda: settled(SentenceTransformer(model, device="cpu"), model),
    ):
        with pytest.raises(UserError, match="spoilt' holds weights that are not finite") as raised:
            load()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("part", ["layer", "head"])
def test_such_a_model_is_not_written(tmp_path: Path, part: str) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path / "source"), device="cpu")
    heads = encoder.add_heads()
    with torch.no_grad():
        parameters = heads.parameters() if part == "head" else encoder.base.parameters()
        next(iter(parameters)).view(-1)[0] = torch.inf
    with pytest.raises(UserError, match="not finite"):
        encoder.save(str(tmp_path / "saved"))
    with pytest.raises(UserError, match="not finite"):
        encoder.truncate("4x8")
    with pytest.raises(UserError, match="not finite"):
        export_model(encoder, tmp_path / "export", size="4x8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_an_export_in_fp16_that_would_overflow_is_refused(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path / "source"), device="cpu")
    with torch.no_grad():
        # The row of a word that no text of the check holds.
        encoder.base.embeddings.word_embeddings.weight[63] = 1e5
    with pytest.raises(UserError, match="cannot be written in float16"):
        export_model(encoder, tmp_path / "export", size="2x8", precision="fp16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_rotation_that_is_not_finite_is_said_to_be_none(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    with pytest.raises(UserError, match="not finite"):
        encoder.rotate(np.full((tiny.WIDTH, tiny.WIDTH), np.nan))
    assert not encoder.rotated
