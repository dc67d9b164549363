"""matryoshka2d rotate: its outcome, and a newcomer's mistakes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_a_rotation_shows_how_much_more_every_width_agrees(run: Run, sandbox: Path) -> None:
    (sandbox / "more.txt").write_text("".join(f"a cat saw {n} dogs\n" for n in range(40)))
    done = run("rotate", "--model", "model", "--data", "more.txt", "--output", "out", "--device", "cpu")
    assert done.code == 0, done.err
    assert re.search(r"     8 dims  +\d+\.\d% -> \d+\.\d%\n    16 dims  ", done.out)
    assert "Wrote out. Next: matryoshka2d evaluate out --sts STS" in done.out
    assert re.search(r"Rotating model by \d+ texts", done.err)


def test_json_is_one_object_and_the_sizes_are_those_that_were_asked_for(run: Run, sandbox: Path) -> None:
    (sandbox / "more.txt").write_text("".join(f"a cat saw {n} dogs\n" for n in range(40)))
    done = run(
        *("rotate", "--model", "model", "--data", "more.txt", "--output", "out"),
        *("--texts", "30", "--sizes", "2x16 4x32", "--json"),
    )
    assert done.code == 0, done.err
    assert set(done.json) == {"output", "full_size", "recall"}
    assert list(done.json["recall"]) == ["16"]


@pytest.mark.usefixtures("sandbox")
def test_with_too_few_texts_to_judge_by_nothing_is_judged(run: Run) -> None:
    done = run("rotate", "--model", "model", "--data", "texts.txt", "--output", "out")
    assert done.code == 0, done.err
    assert done.out.startswith("Wrote out.")


@pytest.mark.usefixtures("no_model_is_loaded")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--output out", "no texts to learn from: .*--data texts.txt"),
        ("--data texts.txt", "no output: .*--output"),
        ("--data texts.txt --output used", "used exists already: .*--overwrite"),
        ("--data texts.txt --output out --sizes 3by8", "3by8"),
        ("--data text.txt --output out", "no file text.txt. Did you mean 'texts.txt'"),
    ],
)
def test_what_can_be_known_without_a_model_is_said_at_once(
    sandbox: Path, refused: Callable[..., str], words: str, said: str
) -> None:
    assert re.search(said, refused("rotate", "--model", "model", *words.split()))
    assert (sandbox / "used" / "precious").read_text() == "keep me"
    assert not (sandbox / "out").exists()
