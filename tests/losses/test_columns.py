"""Columns that run together in groups give what each gives on its own, gradients included."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.losses.columns import (
    ExitVectors,
    _grouped,
    _merge,
    _run_in_groups,
    _slices,
    exit_columns,
)
from tests import tiny

LAYERS = (1, 3, tiny.LAYERS)
PROMPTS = (None, "query : ", "passage : the ")
# Absolute positions count from the left edge: left padding is for architectures with relative ones.
MODELS = (
    ("bert", "right", "mean"),
    ("distilbert", "right", "cls"),
    ("mpnet", "right", "weightedmean"),
    ("modernbert", "left", "mean"),
    ("qwen3", "left", "lasttoken"),
    ("qwen3", "right", "lasttoken"),
)

Column = tuple[list[str], str | None]


@cache
def encoder(model_type: str, side: str, pooling: str) -> ElasticEncoder:
    """Return a model whose pooling leaves the prompt out, so that prompts matter to it."""
    folder = tiny.sentence_model(
        Path(mkdtemp()), model_type, padding_side=side, pooling=pooling, include_prompt=False
    )
    return ElasticEncoder(folder, device="cpu").eval()


texts = st.lists(st.sampled_from(tiny.WORDS.split()), min_size=1, max_size=12).map(" ".join)


@st.composite
def batches(draw: st.DrawFn) -> list[Column]:
    rows = draw(st.integers(1, 6))
    column = st.tuples(st.lists(texts, min_size=rows, max_size=rows), st.sampled_from(PROMPTS))
    return draw(st.lists(column, min_size=1, max_size=4))


def tokenized(model: ElasticEncoder, columns: list[Column], token_types: str = "as given") -> list[Any]:
    features = [model.preprocess(texts, prompt=prompt) for texts, prompt in columns]
    for column in features:
        if token_types == "left out":
            column.pop("token_type_ids", None)
        elif token_types == "of two kinds":
            column["token_type_ids"] = (column["input_ids"] % 2) * column["attention_mask"]
    return features


def separately(model: ElasticEncoder, columns: list[Any]) -> dict[int, list[Tensor]]:
    passes = [model.exit_vectors(column, LAYERS) for column in columns]
    return {n: [vectors[n] for vectors in passes] for n in LAYERS}


def gradients(model: ElasticEncoder, exits: dict[int, list[Tensor]]) -> dict[str, Tensor]:
    """Return the gradient of a sum in which every entry has a weight of its own."""
    model.zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(0)
    vectors = [vector for n in LAYERS for vector in exits[n]]
    sum((v * torch.randn(v.shape, generator=generator)).sum() for v in vectors).backward()
    named = ((name, parameter.grad) for name, parameter in model.named_parameters())
    return {name: grad for name, grad in named if grad is not None}


def assert_same(model: ElasticEncoder, columns: list[Any], rows_per_group: int) -> None:
    expected = separately(model, columns)
    merged = exit_columns(model.exit_vectors, columns, LAYERS, rows_per_group)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(gradients(model, merged), gradients(model, expected), rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize(("model_type", "side", "pooling"), MODELS)
@settings(deadline=None, max_examples=15)
@given(columns=batches(), rows_per_group=st.integers(1, 20))
def test_groups_of_any_size_give_what_separate_passes_give(
    model_type: str, side: str, pooling: str, columns: list[Column], rows_per_group: int
) -> None:
    model = encoder(model_type, side, pooling)
    assert_same(model, tokenized(model, columns), rows_per_group)


@pytest.mark.parametrize("token_types", ["left out", "of two kinds"])
@settings(deadline=None, max_examples=10)
@given(columns=batches(), rows_per_group=st.integers(1, 20))
def test_token_types_are_carried_along_or_missing(
    token_types: str, columns: list[Column], rows_per_group: int
) -> None:
    model = encoder(*MODELS[0])
    assert_same(model, tokenized(model, columns, token_types), rows_per_group)


def spied(model: ElasticEncoder, seen: list[dict[str, Any]]) -> ExitVectors:
    def run(features: dict[str, Any], layers: Sequence[int]) -> dict[int, Tensor]:
        seen.append(features)
        return model.exit_vectors(features, layers)

    return run


def test_a_group_holds_texts_of_similar_length_and_no_more_padding_than_it_needs() -> None:
    model = encoder(*MODELS[0])
    columns = tokenized(model, [(["cat", "the dog"] * 3, None), ([" ".join(["cat"] * 20)] * 6, None)])
    seen: list[dict[str, Any]] = []
    exit_columns(spied(model, seen), columns, LAYERS, rows_per_group=6)
    assert [tuple(group["input_ids"].shape) for group in seen] == [(6, 22), (6, 4)]


def test_groups_are_as_many_as_the_rows_need_and_equally_full() -> None:
    model = encoder(*MODELS[0])
    columns = tokenized(model, [(tiny.TEXTS, None), (tiny.TEXTS, None)])
    for rows_per_group, sizes in ((100, [10]), (10, [10]), (9, [5, 5]), (4, [4, 4, 2]), (1, [1] * 10)):
        seen: list[dict[str, Any]] = []
        exit_columns(spied(model, seen), columns, LAYERS, rows_per_group)
        assert [len(group["input_ids"]) for group in seen] == sizes


def test_only_columns_with_the_same_prompt_run_together() -> None:
    model = encoder(*MODELS[0])
    columns = tokenized(model, [(tiny.TEXTS, "query : "), (tiny.TEXTS, "passage : the "), (tiny.TEXTS, None)])
    assert [column.get("prompt_length") for column in columns] == [3, 4, None]
    seen: list[dict[str, Any]] = []
    exit_columns(spied(model, seen), columns, LAYERS)
    assert [(group.get("prompt_length"), len(group["input_ids"])) for group in seen] == [
        (3, 5),
        (4, 5),
        (None, 5),
    ]


def test_prompt_lengths_may_come_as_one_number_a_row() -> None:
    model = encoder(*MODELS[0])
    columns = tokenized(model, [(tiny.TEXTS[:3], "query : "), (tiny.TEXTS[:3], "query : ")])
    expected = separately(model, columns)
    for column in columns:
        column["prompt_length"] = torch.full((3,), column["prompt_length"])
    torch.testing.assert_close(
        exit_columns(model.exit_vectors, columns, LAYERS, 2), expected, rtol=1e-4, atol=1e-5
    )


def test_columns_may_have_different_numbers_of_rows() -> None:
    model = encoder(*MODELS[0])
    columns = tokenized(model, [(tiny.TEXTS, None), (tiny.TEXTS[:2], None)])
    assert_same(model, columns, 3)


def test_vectors_are_float32_whatever_the_model_computes_in() -> None:
    model = encoder(*MODELS[0])
    columns = tokenized(model, [(tiny.TEXTS, None)])
    with torch.autocast("cpu", torch.bfloat16):
        found = exit_columns(model.exit_vectors, columns, LAYERS)
    assert {column.dtype for n in LAYERS for column in found[n]} == {torch.float32}


def test_what_was_asked_for_decides_the_groups_then_the_device() -> None:
    lengths = torch.tensor([5, 90, 9, 31, 7])
    for on_cpu in (True, False):
        assert len(_grouped(lengths, _slices(on_cpu, 2, None))) == 3
        assert len(_grouped(lengths, _slices(on_cpu, None, 90))) == 3
    assert len(_grouped(lengths, _slices(True, None, None))) == 1
    assert len(_grouped(lengths, _slices(False, None, None))) == 2


def test_groups_of_a_gpu_give_the_same_vectors() -> None:
    model = encoder(*MODELS[0])
    column = model.preprocess([" ".join(["the"] * count) for count in (1, 30, 4, 2, 12)])
    merged = _merge([column])
    found, whole = (
        _run_in_groups(
            model.exit_vectors, merged, LAYERS, _grouped(merged["attention_mask"].sum(dim=1), slices)
        )
        for slices in (_slices(False, None, None), _slices(False, 100, None))
    )
    for n in LAYERS:
        torch.testing.assert_close(found[n], whole[n], rtol=1e-4, atol=1e-5)
