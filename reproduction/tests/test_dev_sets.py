"""Dev sets: no pair of them is a test pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from matryoshka2d import UserError
from matryoshka2d.evaluation import StsSet, read_sts
from matryoshka2d_reproduction.measuring import (
    folded,
    pairs_of,
    read_dev_captions,
    read_dev_sts,
    without_pairs,
)


def sts_file(folder: Path, name: str, rows: list[tuple[str, str, str]]) -> None:
    lines = [f"{split}\t{number}\t{left}\t{right}" for number, (split, left, right) in enumerate(rows)]
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(["split\tscore\tsentence1\tsentence2", *lines]) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "sts"
    sts_file(place, "sts12.tsv", [("test", "A cat sat.", "One dog ran."), ("test", "x", "y")])
    sts_file(
        place,
        "stsb.tsv",
        [
            ("test", "the sea", "a boat"),
            ("test", "the sky", "a bird"),
            ("dev", "one  DOG ran", "a cat sat"),  # the pair of sts12, turned round
            ("dev", "A boat!", "The sea"),  # its own test pair
            ("dev", "a cat sat", "a boat"),
            ("dev", "red", "blue"),
            ("train", "x.", "Y"),
            ("train", "green", "grey"),
            ("train", "black", "white"),
        ],
    )
    rows = [
        (split, f"{split} {n}", f"other {split} {n}") for split in ("test", "dev", "train") for n in range(3)
    ]
    sts_file(place, "sickr.tsv", rows)
    return place


def test_dev_pairs_are_those_that_no_test_set_has(folder: Path) -> None:
    stsb, sickr = read_dev_sts(folder)
    assert (stsb.name, sickr.name) == ("stsb-dev", "sickr-dev")
    assert list(zip(stsb.sentence1, stsb.sentence2, strict=True)) == [
        ("a cat sat", "a boat"),
        ("red", "blue"),
    ]
    assert stsb.gold.tolist() == [4.0, 5.0]
    assert len(sickr) == 3
    assert not pairs_of([stsb, sickr]) & pairs_of(read_sts(folder))


def test_train_pairs_may_be_dev_too(folder: Path) -> None:
    stsb, _ = read_dev_sts(folder, split="train")
    assert stsb.name == "stsb-train"
    assert stsb.sentence1 == ("green", "black")


def test_only_the_sets_that_are_reported_are_barred_if_named(folder: Path) -> None:
    (sts12,) = read_sts([folder / "sts12.tsv"])
    stsb, _ = read_dev_sts(folder, [sts12])
    assert len(stsb) == 3


def test_one_file_is_dev_by_its_own_split(folder: Path) -> None:
    (stsb,) = read_dev_sts(folder / "stsb.tsv", read_sts(folder))
    assert stsb.name == "stsb-dev"
    assert stsb.sentence1 == ("a cat sat", "red")
    (alone,) = read_dev_sts(folder / "stsb.tsv")
    assert not pairs_of([alone]) & pairs_of(read_sts(folder / "stsb.tsv"))


def test_pairs_are_the_same_whatever_order_case_spacing_and_punctuation() -> None:
    assert folded("Don't  go!", "Stay") == folded("stay.", "don t go")
    assert folded("a", "b") != folded("a", "c")


def test_nothing_left_is_said() -> None:
    one = StsSet("toy", ("a", "b"), ("c", "d"), np.array([0.0, 1.0]))
    with pytest.raises(UserError, match="0 pairs"):
        without_pairs(one, pairs_of([one]))


class TestCaptions:
    def write(self, folder: Path, rows: list[dict[str, str]]) -> Path:
        path = folder / "captions.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def test_the_first_caption_asks_and_the_others_answer(self, tmp_path: Path) -> None:
        rows = [
            {"anchor": "a1", "positive": "a2", "group": "a"},
            {"anchor": "a2", "positive": "a3", "group": "a"},
            {"anchor": "b1", "positive": "b2", "group": "b"},
        ]
        data = read_dev_captions(self.write(tmp_path, rows))
        assert data.queries == {"a": "a1", "b": "b1"}
        assert data.corpus == {"a/0": "a2", "a/1": "a3", "b/0": "b2"}
        assert data.relevance == {"a": {"a/0": 1, "a/1": 1}, "b": {"b/0": 1}}
        assert len(read_dev_captions(tmp_path / "captions.jsonl", groups=1).queries) == 1

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([{"anchor": "a", "positive": "b"}], "line 1: expected the texts anchor, positive and group"),
            ([{"anchor": "a", "positive": "a", "group": "g"}], "no group of two captions"),
            ([], "no group of two captions"),
        ],
    )
    def test_a_wrong_file(self, tmp_path: Path, rows: list[dict[str, str]], said: str) -> None:
        with pytest.raises(UserError, match=said):
            read_dev_captions(self.write(tmp_path, rows))


@pytest.mark.shared_data
def test_no_dev_pair_of_the_real_sets_is_a_test_pair(sts_folder: Path) -> None:
    tested = pairs_of(read_sts(sts_folder))
    for split in ("dev", "train"):
        sets = read_dev_sts(sts_folder, split=split)
        assert not pairs_of(sets) & tested
    stsb, sickr = read_dev_sts(sts_folder)
    (whole,) = read_sts([sts_folder / "stsb.tsv"], split="dev")
    assert len(whole) - len(stsb) >= 1131
    assert (len(stsb), len(sickr)) == (363, 486)


@pytest.mark.shared_data
def test_a_set_of_another_language_reads_like_any_other(sts_folder: Path) -> None:
    (german,) = read_sts([sts_folder / "stsb_multi" / "de.tsv"])
    (english,) = read_sts([sts_folder / "stsb.tsv"])
    assert len(german) == len(english) == 1379
    np.testing.assert_allclose(german.gold, english.gold)
