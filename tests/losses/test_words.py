"""Words looked up once a step give the vectors and gradients of words that every group looks up itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from matryoshka2d.encoder.architectures import ARCHITECTURES
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.losses.columns import Words, exit_columns, table_of
from tests import tiny

LAYERS = [1, tiny.LAYERS]


def encoder_of(folder: Path, model_type: str = "bert") -> ElasticEncoder:
    return ElasticEncoder(tiny.sentence_model(folder, model_type), device="cpu").eval()


def columns_of(model: ElasticEncoder, prompt: str | None = None) -> list[dict[str, Any]]:
    return [model.preprocess(tiny.TEXTS, prompt=prompt), model.preprocess(tiny.TEXTS[::-1])]


def gradients(model: ElasticEncoder, exits: dict[int, list[Tensor]]) -> dict[str, Tensor]:
    """Return the gradient of a sum in which every entry has a weight of its own."""
    model.zero_grad(set_to_none=True)
    chance = torch.Generator().manual_seed(0)
    vectors = [column for columns in exits.values() for column in columns]
    torch.stack([(v * torch.randn(v.shape, generator=chance)).sum() for v in vectors]).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def lookups(model: ElasticEncoder, step: Callable[[], object]) -> list[int]:
    """Return how many words each lookup in the table of the model asked for during a step."""
    asked: list[int] = []
    table = model.base.get_input_embeddings()
    hook = table.register_forward_hook(lambda _module, inputs, _output: asked.append(inputs[0].numel()))
    step()
    hook.remove()
    return asked


@pytest.mark.parametrize("groups", [{"rows_per_group": 3}, {"mini_batch_tokens": 24}])
@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_vectors_and_gradients_are_the_same_for_every_architecture(
    tmp_path: Path, model_type: str, groups: dict[str, int]
) -> None:
    model = encoder_of(tmp_path, model_type)
    columns, table = columns_of(model), table_of(model.base)
    assert table is not None
    itself = exit_columns(model.exit_vectors, columns, LAYERS, **groups)
    expected = gradients(model, itself)
    once = exit_columns(model.exit_vectors, columns, LAYERS, **groups, table=table)
    torch.testing.assert_close(once, itself, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients(model, once), expected, rtol=1e-4, atol=1e-5)
    assert expected["0.model." + name_of(model, table)].abs().sum() > 0


def name_of(model: ElasticEncoder, table: nn.Module) -> str:
    return next(name for name, module in model.base.named_modules() if module is table) + ".weight"


# Columns with different prompts do not run together.
@pytest.mark.parametrize("prompt", [None, "query : "])
def test_a_training_step_looks_its_distinct_words_up_once(tmp_path: Path, prompt: str | None) -> None:
    model = encoder_of(tmp_path).train()
    columns = columns_of(model, prompt)
    distinct = len(torch.unique(torch.cat([column["input_ids"].flatten() for column in columns])))

    def step() -> None:
        exits = model(columns, exits=LAYERS, mini_batch_tokens=24)["exit_vectors"]
        gradients(model, exits)

    assert lookups(model, step) == [distinct]


def test_one_group_and_what_learns_nothing_look_up_as_ever(tmp_path: Path) -> None:
    model = encoder_of(tmp_path)
    columns = columns_of(model)
    everything = sum(column["input_ids"].numel() for column in columns)
    assert lookups(model, lambda: model(columns, exits=LAYERS, rows_per_group=100)) == [everything]
    with torch.no_grad():
        assert len(lookups(model, lambda: model(columns, exits=LAYERS, rows_per_group=3))) > 1


@given(st.lists(st.lists(st.integers(0, 29), min_size=1, max_size=8), min_size=1, max_size=4))
def test_any_words_have_the_vectors_and_the_gradient_of_the_table(rows: list[list[int]]) -> None:
    table = nn.Embedding(30, 3, padding_idx=0)
    tokens = [torch.tensor([row]) for row in rows]
    words = Words(table, tokens)
    for some in tokens:
        assert torch.equal(words(some), table(some))
    torch.stack([words(some).square().sum() for some in tokens]).sum().backward()
    found, table.weight.grad = table.weight.grad, None
    torch.stack([table(some).square().sum() for some in tokens]).sum().backward()
    torch.testing.assert_close(found, table.weight.grad)


@pytest.mark.parametrize(
    "choices", [{"sparse": True}, {"scale_grad_by_freq": True}, {"max_norm": 1.0}, {"frozen": True}]
)
def test_a_table_that_would_not_learn_the_same_is_left_alone(tmp_path: Path, choices: dict[str, Any]) -> None:
    model = encoder_of(tmp_path).base
    frozen = choices.pop("frozen", False)
    assert table_of(model) is model.get_input_embeddings()
    model.set_input_embeddings(nn.Embedding(64, tiny.WIDTH, **choices).requires_grad_(not frozen))
    assert table_of(model) is None


def test_a_model_that_does_not_say_where_its_words_are_is_left_alone() -> None:
    class Wordless(PreTrainedModel):
        pass

    assert table_of(Wordless(PretrainedConfig())) is None
