"""Objectives by name, their options as text, and the one line that a wrong one gets."""

from __future__ import annotations

import re

import pytest
import torch

from matryoshka2d.errors import UserError
from matryoshka2d.losses.objectives import (
    OBJECTIVES,
    AnglE,
    CoSENT,
    DataFormat,
    Distillation,
    InfoNCE,
    default_objective,
    describe,
    make_objective,
)

PAIR, TRIPLET = [torch.eye(4)] * 2, [torch.eye(4)] * 3
LABELS = torch.tensor([0.0, 1.0, 0.5, 0.2])


def test_names() -> None:
    assert dict(OBJECTIVES) == {
        "angle": AnglE,
        "cosent": CoSENT,
        "infonce": InfoNCE,
        "distillation": Distillation,
    }


def test_options_are_read_from_text_to_the_type_of_the_field() -> None:
    made = make_objective("distillation", match_vectors="yes", temperature="0.1", vector_weight=2)
    assert made == Distillation(match_vectors=True, temperature=0.1, vector_weight=2.0)


@pytest.mark.parametrize("data_format", list(DataFormat))
def test_the_default_objective_takes_its_format(data_format: DataFormat) -> None:
    assert data_format in OBJECTIVES[default_objective(data_format)].formats


def test_the_defaults_are_those_documented() -> None:
    assert [default_objective(form) for form in DataFormat] == [
        "cosent",
        "infonce",
        "infonce",
        "distillation",
    ]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("infonec", {}, ["no objective", "'infonec'", "Did you mean 'infonce'?"]),
        ("infonce", {"scal": 3}, ["objective 'infonce'", "'scal'", "Did you mean 'scale'?"]),
        ("infonce", {"scale": "high"}, ["'scale'", "'high'", "expected a number"]),
        ("infonce", {"scale": True}, ["'scale'", "expected a number"]),
        ("infonce", {"scale": "0"}, ["scale is 0.0", "above 0"]),
        ("infonce", {"scale": "nan"}, ["scale is nan", "above 0"]),
        ("distillation", {"match_vectors": "maybe"}, ["'match_vectors'", "true or false"]),
        ("distillation", {"similarity_weight": 0}, ["nothing to learn", "match_vectors"]),
        ("angle", {"ibn_weight": -1}, ["ibn_weight is -1", "0 or more"]),
        ("angle", {"ibn_weight": 0, "angle_weight": 0}, ["all weights", "above 0"]),
    ],
)
def test_a_wrong_name_or_option_is_one_clear_line(
    name: str, options: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        make_objective(name, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_format_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=re.escape("Did you mean 'triplets'?")):
        default_objective("triplet")


@pytest.mark.parametrize(
    ("name", "columns", "labels", "words"),
    [
        ("cosent", PAIR, None, "2 text columns and no labels: it takes 2 text columns and one float label"),
        ("cosent", TRIPLET, LABELS, "3 text columns and labels"),
        ("cosent", PAIR, LABELS[:2], "labels of shape (2,) for 4 pairs"),
        ("infonce", PAIR, LABELS, "it takes 2 text columns (anchor, positive) and no labels; or 3 or more"),
        ("infonce", PAIR[:1], None, "1 text columns and no labels"),
        ("infonce", [torch.eye(4), torch.eye(3)], None, "one shape for all"),
        ("infonce", [], None, "expected [batch, dims]"),
        ("angle", TRIPLET, LABELS, "3 text columns and labels"),
        ("angle", [torch.eye(5)] * 2, None, "5 dims is odd"),
        ("distillation", PAIR, None, "no labels: it takes the teacher's vectors"),
        ("distillation", PAIR, torch.eye(4), "teacher vectors of shape (4, 4) for 4 rows of 2 columns"),
        ("distillation", PAIR[:1], torch.ones(3, 8), "teacher vectors of shape (3, 8)"),
        ("distillation", PAIR[:1], LABELS, "teacher vectors of shape (4,)"),
    ],
)
def test_a_batch_of_the_wrong_form_is_one_clear_line(
    name: str, columns: list[torch.Tensor], labels: torch.Tensor | None, words: str
) -> None:
    objective = make_objective(name)
    for call in (objective.check, objective):
        with pytest.raises(UserError, match=re.escape(words)):
            call(columns, labels)


def test_angle_needs_in_batch_negatives_for_pairs_without_labels() -> None:
    with pytest.raises(UserError, match="set ibn_weight above 0"):
        AnglE(ibn_weight=0)(PAIR)


def test_odd_dims_are_fine_without_the_angle_term() -> None:
    assert torch.isfinite(AnglE(angle_weight=0)([torch.eye(5)] * 2))


def test_every_option_is_described() -> None:
    for description in describe():
        assert description.summary.endswith(".")
        for option in description.options:
            assert "default" in option.help, (description.name, option.name)
    angle = {option.name: option for option in describe()[0].options}
    assert angle["ibn_weight"].default == "30.0"
    assert angle["ibn_tau"].help == angle["angle_tau"].help
