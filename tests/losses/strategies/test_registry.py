"""Strategies by name, their options as text, and the one line that a wrong one gets."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from matryoshka2d.errors import UserError
from matryoshka2d.losses.strategies import (
    DEFAULT_STRATEGY,
    ESE,
    MRL,
    STRATEGIES,
    AllSizes,
    Matryoshka2d,
    Starbucks,
    TwoDMSE,
    describe,
    make_strategy,
)
from matryoshka2d.size import Size


def test_the_default_is_all_sizes() -> None:
    assert DEFAULT_STRATEGY == "all-sizes"
    assert make_strategy() == AllSizes()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mrl", {"dims": "8,16,32"}, MRL((8, 16, 32))),
        ("mrl", {"dims": "8 16"}, MRL((8, 16))),
        ("mrl", {"dims": [8, "16"]}, MRL((8, 16))),
        ("mrl", {"dims": 8}, MRL((8,))),
        ("all-sizes", {"sizes": "1-2x8,16"}, AllSizes((Size(1, 8), Size(1, 16), Size(2, 8), Size(2, 16)))),
        ("all-sizes", {"sizes": ["2x8", Size(1, 8)]}, AllSizes((Size(1, 8), Size(2, 8)))),
        ("all-sizes", {"temperature": "0.1"}, AllSizes(temperature=0.1)),
        ("2dmse", {"detach": "no", "temperature": "none"}, TwoDMSE(detach=False)),
        (
            "2dmse",
            {"alignment": "none", "layers_per_step": "-1"},
            TwoDMSE(alignment="none", layers_per_step=-1),
        ),
        ("2dmse", {"depth_weights": "log"}, TwoDMSE(depth_weights="log")),
        ("ese", {"dims": "64"}, ESE(64)),
        ("starbucks", {"temperature_in_softmax": "true"}, Starbucks(temperature_in_softmax=True)),
        ("matryoshka2d", {"dims": "8,16", "dim_weights": "1,.5"}, Matryoshka2d((8, 16), (1.0, 0.5))),
    ],
)
def test_options_are_read_to_the_type_of_the_field(
    name: str, options: dict[str, Any], expected: object
) -> None:
    assert make_strategy(name, **options) == expected


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("2dsme", {}, ["no strategy is called '2dsme'", "Did you mean '2dmse'?"]),
        ("full", {"layers": 8}, ["strategy 'full' has no option 'layers'", "expected one of dims"]),
        ("2dmse", {"dim": 8}, ["no option 'dim'", "Did you mean 'dims'?"]),
        ("2dmse", {"dims": "8,big"}, ["'8,big'", "whole numbers, as in 8,16,32"]),
        ("2dmse", {"dims": 8.5}, ["8.5", "whole numbers"]),
        ("2dmse", {"layers_per_step": True}, ["expected a whole number"]),
        ("2dmse", {"layers_per_step": 0}, ["layers_per_step is 0", "-1 for all"]),
        ("2dmse", {"dims_per_step": -2}, ["dims_per_step is -2"]),
        ("2dmse", {"alignment": "similarity"}, ["similarities", "Did you mean 'similarities'?"]),
        ("2dmse", {"depth_weights": "logs"}, ["uniform or linear or log or none", "Did you mean 'log'?"]),
        ("2dmse", {"temperature": 0}, ["temperature is 0.0", "above 0"]),
        ("2dmse", {"detach": "sometimes"}, ["'sometimes'", "true or false or none"]),
        ("all-sizes", {"sizes": "6by128"}, ["option 'sizes' of strategy 'all-sizes'", "'6by128'"]),
        ("all-sizes", {"inner_weight": "-1"}, ["inner_weight is -1.0", "0 or more"]),
        ("ese", {"temperature": -1}, ["temperature is -1.0", "0 or more"]),
        ("starbucks", {"alignment": "stz"}, ["sts or retrieval or none", "Did you mean 'sts'?"]),
        ("matryoshka2d", {"dims": "8,16", "dim_weights": "1"}, ["1 dim_weights for 2 dims"]),
        ("matryoshka2d", {"temperature": "inf"}, ["temperature is inf"]),
    ],
)
def test_a_wrong_name_or_option_is_one_clear_line(
    name: str, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        make_strategy(name, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TwoDMSE(variant="papers"),
        lambda: TwoDMSE(depth_weights="logs"),
        lambda: Starbucks(alignment="retrieve"),
        lambda: ESE(depth_weights=None),
        lambda: Matryoshka2d(depth_weights="lin"),
    ],
)
def test_a_wrong_choice_is_found_without_the_registry_too(make: Any) -> None:
    with pytest.raises(UserError, match=r"expected .* or "):
        make()


def test_strategies_are_frozen_values() -> None:
    for name, made in STRATEGIES.items():
        assert make_strategy(name) == made()
        assert hash(make_strategy(name)) == hash(made())
        assert dataclasses.is_dataclass(made)


def test_every_option_is_described_with_its_default() -> None:
    described = describe()
    assert [one.name for one in described] == list(STRATEGIES)
    for one in described:
        assert one.summary.endswith("."), one.name
        fields = [field.name for field in dataclasses.fields(STRATEGIES[one.name])]
        assert [option.name for option in one.options] == fields
        for option in one.options:
            assert "default" in option.help, (one.name, option.name)


def test_a_description_can_be_shown_as_it_is() -> None:
    (temperature,) = (o for d in describe() if d.name == "ese" for o in d.options if o.name == "temperature")
    assert (temperature.type, temperature.default) == ("a number", "1.0")
    assert temperature.help.startswith("Temperature of its KL, default 1")
