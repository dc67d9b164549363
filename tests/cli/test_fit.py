"""matryoshka2d fit: its outcome, and a newcomer's mistakes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.mark.usefixtures("sandbox")
def test_a_fit_shows_how_near_every_exit_came(run: Run) -> None:
    done = run("fit", "--model", "model", "--data", "texts.txt", "--output", "out", "--device", "cpu")
    assert done.code == 0, done.err
    assert re.search(r"  1 layer   +-?\d\.\d{3} -> -?\d\.\d{3}\n  2 layers  ", done.out)
    assert "Wrote out. Next: matryoshka2d evaluate out --sts STS" in done.out
    assert "Fitting 3 exits of model on" in done.err


def test_too_few_texts_are_warned_of(sandbox: Path, run: Run, minilm: str) -> None:
    (sandbox / "few.txt").write_text("a cat\n\nb dog\nthree men\n")
    done = run("fit", "--model", minilm, "--data", "few.txt", "--output", "out", "--device", "cpu")
    assert done.code == 0, done.err
    assert "warning: exit 1 came no nearer to the full size: 2 texts are too few" in done.err


@pytest.mark.usefixtures("sandbox")
def test_json_is_one_object_and_nothing_else(run: Run) -> None:
    done = run("fit", "--model", "model", "--data", "texts.txt", "--output", "out", "--texts", "6", "--json")
    assert done.code == 0, done.err
    assert set(done.json) == {"output", "full_size", "cosines"}
    assert list(done.json["cosines"]) == ["1", "2", "3"]


@pytest.mark.usefixtures("no_model_is_loaded")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--output out", "no texts to learn from: .*--data texts.txt"),
        ("--data texts.txt", "no output: .*--output"),
        ("--data texts.txt --output used", "used exists already: .*--overwrite"),
        ("--data texts.txt --output out --texts 1", "'texts' is 1: expected a whole number of at least 2"),
        ("--data text.txt --output out", "no file text.txt. Did you mean 'texts.txt'"),
    ],
)
def test_what_can_be_known_without_a_model_is_said_at_once(
    sandbox: Path, refused: Callable[..., str], words: str, said: str
) -> None:
    assert re.search(said, refused("fit", "--model", "model", *words.split()))
    assert (sandbox / "used" / "precious").read_text() == "keep me"
    assert not (sandbox / "out").exists()
