"""Learning rates fall with depth, and every parameter of a layer gets exactly the rate of its layer."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import matryoshka2d.training.finetuning as training_run
from matryoshka2d.encoder.architectures import architecture_of, layers_of
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.losses.elastic_loss import ElasticLoss
from matryoshka2d.losses.strategies import STRATEGIES
from matryoshka2d.training import TrainingOptions
from matryoshka2d.training.model_settings import by_depth, mapping, rates
from matryoshka2d.training.trainer import ElasticTrainer
from tests import tiny
from tests.training import small

MODELS = ("bert", "modernbert", "distilbert")


@given(lowest=st.floats(1e-6, 1e-2), highest=st.floats(1e-6, 1e-2), depth=st.integers(2, 30))
def test_rates_go_from_the_lowest_to_the_highest_by_equal_factors(
    lowest: float, highest: float, depth: int
) -> None:
    found = by_depth(lowest, highest, depth)
    assert len(found) == depth
    assert found[0] == pytest.approx(lowest)
    assert found[-1] == pytest.approx(highest)
    factors = [after / before for before, after in pairwise(found)]
    assert factors == pytest.approx([factors[0]] * len(factors))


def test_a_single_layer_has_the_lowest_rate() -> None:
    assert by_depth(1e-3, 1e-5, 1) == [1e-3]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_has_rates(strategy: str) -> None:
    lowest, highest = rates(TrainingOptions(strategy=strategy))
    assert 0 < highest <= lowest < 1e-3
    assert (highest < lowest) is (strategy == "all-sizes")


def test_named_rates_are_used_zero_included() -> None:
    assert rates(TrainingOptions(learning_rate=1e-3, top_learning_rate=1e-5)) == (1e-3, 1e-5)
    assert rates(TrainingOptions(learning_rate=0.0)) == (0, 0)


@pytest.mark.parametrize("pair", [(0.0, 1e-3), (1e-3, 0.0)])
def test_a_rate_cannot_fall_from_or_to_zero(pair: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"learning_rate .* top_learning_rate .* 0") as raised:
        rates(TrainingOptions(learning_rate=pair[0], top_learning_rate=pair[1]))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model_type", MODELS)
def test_each_pattern_matches_every_parameter_of_its_layer_and_no_other(
    tmp_path: Path, model_type: str
) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path, model_type, num_hidden_layers=12), device="cpu")
    encoder.add_heads()
    # The trainer matches the names of the loss, which holds the model.
    named = dict(ElasticLoss(encoder).named_parameters())
    found = mapping(encoder, 1e-3, 1e-5, heads=3e-3)
    patterns_of = {name: [pattern for pattern in found if re.search(pattern, name)] for name in named}
    layers = [{id(p) for p in layer.parameters()} for layer in layers_of(encoder.base)]
    norm = architecture_of(encoder.base.config).final_norm
    expected_rates = by_depth(1e-3, 1e-5, 12)
    for name, parameter in named.items():
        layer = next((n for n, held in enumerate(layers) if id(parameter) in held), None)
        if layer is not None:
            expected = expected_rates[layer]
        elif "exit_heads" in name:
            expected = 3e-3
        elif norm is not None and norm in name:
            expected = 1e-5
        else:
            assert patterns_of[name] == [], name
            continue
        assert [found[pattern] for pattern in patterns_of[name]] == [expected], name
    assert all(any(pattern in matched for matched in patterns_of.values()) for pattern in found)


def test_one_rate_for_all_layers_needs_no_patterns(tmp_path: Path, model: str) -> None:
    encoder = small.load(Path(model))
    assert mapping(encoder, 1e-4, 1e-4, heads=2e-3) == {}
    encoder.add_heads()
    assert list(mapping(encoder, 1e-4, 1e-4, heads=2e-3).values()) == [2e-3]


@pytest.mark.parametrize("model_type", MODELS)
def test_the_optimizer_of_a_run_gives_every_parameter_its_rate_once(
    tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[int, list[float]] = {}

    class Watched(ElasticTrainer):
        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            optimizer = super().create_optimizer(*args, **kwargs)
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    found.setdefault(id(parameter), []).append(group["lr"])
            return optimizer

    monkeypatch.setattr(training_run, "ElasticTrainer", Watched)
    folder = tiny.sentence_model(tmp_path, model_type)
    rates = {"learning_rate": 1e-3, "top_learning_rate": 1e-6, "head_learning_rate": 5e-3}
    encoder = small.run(tmp_path, folder, limit=4, **rates)
    assert {id(parameter) for parameter in encoder.parameters()} == set(found)
    expected = by_depth(1e-3, 1e-6, tiny.LAYERS)
    for layer, rate in zip(layers_of(encoder.base), expected, strict=True):
        assert all(found[id(parameter)] == [rate] for parameter in layer.parameters())
    assert encoder.heads is not None
    assert all(found[id(parameter)] == [5e-3] for parameter in encoder.heads.parameters())
    assert found[id(encoder.base.get_input_embeddings().weight)] == [1e-3]


def test_rates_of_zero_train_the_heads_alone(tmp_path: Path, model: str) -> None:
    before, after = small.load(Path(model)), small.run(tmp_path, model, learning_rate=0.0)
    for name, tensor in before.state_dict().items():
        assert tensor.equal(after.state_dict()[name]), name
    assert after.heads is not None
    for head in after.heads.dense.values():
        weight = head.linear.weight
        assert not weight.equal(weight.new_zeros(weight.shape).fill_diagonal_(1))
