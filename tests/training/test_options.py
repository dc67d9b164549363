"""TrainingOptions: each mistake is one line; YAML mappings are read to the types of the fields."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from matryoshka2d.errors import UserError
from matryoshka2d.training import TrainingOptions


def one_line(raised: pytest.ExceptionInfo[UserError], *words: str) -> None:
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"batch_size": 1}, ["batch_size is 1", "at least 2"]),
        ({"epochs": -0.5}, ["epochs is -0.5"]),
        ({"epochs": float("nan")}, ["epochs is nan"]),
        ({"epochs": float("inf")}, ["epochs is inf"]),
        ({"max_length": 1}, ["max_length is 1"]),
        ({"warmup": 1.5}, ["warmup is 1.5", "at most 1"]),
        ({"warmup": -0.1}, ["warmup is -0.1"]),
        ({"evaluations": 0}, ["evaluations is 0", "a whole number above 0"]),
        ({"gradient_accumulation": 0}, ["gradient_accumulation is 0"]),
        ({"dropout": 1.0}, ["dropout is 1.0", "at most 0.99"]),
        ({"limit": 0}, ["limit is 0"]),
        ({"mini_batch_tokens": 0}, ["mini_batch_tokens is 0"]),
        ({"learning_rate": -1e-3}, ["learning_rate is -0.001"]),
        ({"learning_rate": float("inf")}, ["learning_rate is inf"]),
        ({"top_learning_rate": -1.0}, ["top_learning_rate is -1.0"]),
        ({"head_learning_rate": -1.0}, ["head_learning_rate is -1.0"]),
        ({"weight_decay": -0.1}, ["weight_decay is -0.1"]),
    ],
)
def test_a_number_out_of_range_is_one_line(choice: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        TrainingOptions(**choice)
    one_line(raised, *words, "expected")


def test_every_field_says_what_it_is() -> None:
    for choice in dataclasses.fields(TrainingOptions):
        help_text = choice.metadata["help"]
        assert help_text.endswith((".", "…")), choice.name
        assert "\n" not in help_text


def test_the_run_folder_stands_beside_the_output() -> None:
    assert TrainingOptions(output="some/out").run_folder == Path("some/out.checkpoints")


def test_paths_single_paths_and_values_are_turned_to_text() -> None:
    options = TrainingOptions(
        model=Path("m"),  # type: ignore[arg-type]
        data=Path("a.jsonl"),  # type: ignore[arg-type]
        output=Path("out"),  # type: ignore[arg-type]
        strategy_options={"dims": (8, 16), "detach": True},  # type: ignore[dict-item]
    )
    assert options.model == "m"
    assert options.data == ["a.jsonl"]
    assert options.output == "out"
    assert options.strategy_options == {"dims": "8,16", "detach": "true"}


YAML = """
model: some/model
data: pairs.jsonl
output: out
learning-rate: 3e-4
batch_size: 32
epochs: 2
heads: no
strategy: 2dmse
strategy_options:
  dims: [8, 16]
  temperature: 0.5
  detach: true
teacher: null
"""


def test_a_yaml_mapping_is_read_to_the_types_of_the_fields() -> None:
    assert TrainingOptions.from_mapping(yaml.safe_load(YAML), "run.yaml") == TrainingOptions(
        model="some/model",
        data=["pairs.jsonl"],
        output="out",
        learning_rate=3e-4,
        batch_size=32,
        epochs=2.0,
        heads=False,
        strategy="2dmse",
        strategy_options={"dims": "8,16", "temperature": "0.5", "detach": "true"},
    )


def test_a_mapping_of_all_values_gives_the_same_options() -> None:
    options = TrainingOptions(data=["a", "b"], output="x", columns={"anchor": "q"}, dropout=0.1, heads=True)
    again = yaml.safe_load(yaml.safe_dump(dataclasses.asdict(options)))
    assert TrainingOptions.from_mapping(again, "run.yaml") == options


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bath_size: 3", ["unknown option 'bath_size'", "Did you mean 'batch_size'?"]),
        ("batch_size: many", ["'batch_size' is 'many'", "a whole number"]),
        ("batch_size: 3.5", ["'batch_size' is 3.5"]),
        ("batch_size: true", ["'batch_size' is True"]),
        ("batch_size:", ["'batch_size' is None"]),
        ("epochs: soon", ["'epochs' is 'soon'", "a number"]),
        ("epochs: true", ["'epochs' is True"]),
        ("heads: perhaps", ["'heads' is 'perhaps'", "true or false"]),
        ("strategy: [full]", ["'strategy' is ['full']", "a text"]),
        ("strategy: no", ["'strategy' is False", "a text"]),
        ("strategy_options: dims", ["'strategy_options' is 'dims'", "names and values"]),
        ("data:", ["'data' is None", "a list of texts"]),
    ],
)
def test_a_wrong_line_of_yaml_is_named(line: str, words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        TrainingOptions.from_mapping(yaml.safe_load(line), "run.yaml")
    one_line(raised, "run.yaml: ", *words)
