"""pretrain on the command line: its outcome, and a newcomer's mistakes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import tiny
from tests.cli.conftest import Run


@pytest.fixture
def sandbox(sandbox: Path) -> Path:
    """Return the working folder with an empty file in it too."""
    (sandbox / "empty.txt").write_text("")
    return sandbox


@pytest.mark.usefixtures("sandbox")
def test_a_run_says_what_it_made(run: Run) -> None:
    words = (
        "pretrain --model model --data texts.txt --output out --batch-size 4 --report-to none --device cpu"
    )
    done = run(*words.split(), "--sizes", "1x8 4x32", "--json")
    assert done.code == 0, done.err
    assert done.json == {"output": "out", "full_size": "4x32", "sizes": ["1x8", "4x32"]}


@pytest.mark.usefixtures("sandbox")
def test_a_yaml_file_may_hold_the_options(run: Run) -> None:
    Path("body.yaml").write_text(
        "model: model\ndata: texts.txt\nsizes: 2x16\nreport-to: none\nbatch_size: 4\n"
    )
    done = run("pretrain", "--config", "body.yaml", "--output", "out", "--mask", "0.2", "--device", "cpu")
    assert done.code == 0, done.err
    assert "Wrote out, pretrained at 2x16. Next: matryoshka2d train --model out" in done.out


@pytest.mark.usefixtures("no_model_is_loaded")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--output out", "no texts to learn from: .*--data texts.txt"),
        ("--data texts.txt", "no output: .*--output"),
        ("--data texts.txt --output used", "used exists already: .*--overwrite"),
        ("--data texts.txt --output out --sizes 3x0", "at least 1"),
        (
            "--data texts.txt --output out --mask 1",
            "'mask' is 1.0: expected a number of at least 0.01 and of at most 0.99",
        ),
        ("--data text.txt --output out", "no file text.txt. Did you mean 'texts.txt'"),
        ("--data empty.txt --output out", "empty.txt"),
        ("--data texts.txt --output out --resume", "nothing to resume"),
        ("--data texts.txt --output out --config no.yaml", "config no.yaml does not exist"),
    ],
)
def test_what_can_be_known_without_a_model_is_said_at_once(
    sandbox: Path, refused: Callable[..., str], words: str, said: str
) -> None:
    assert re.search(said, refused("pretrain", "--model", "model", *words.split()))
    assert (sandbox / "used" / "precious").read_text() == "keep me"
    assert not (sandbox / "out").exists()


def test_a_decoder_and_a_size_that_is_not_there_are_refused(
    sandbox: Path, refused: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    decoder = tiny.sentence_model(tmp_path_factory.mktemp("decoder"), "qwen3")
    words = ("--data", "texts.txt", "--output", "out")
    assert "is a decoder" in refused("pretrain", "--model", decoder, *words)
    assert "too deep" in refused("pretrain", "--model", "model", *words, "--sizes", "9x8")
    assert not (sandbox / "out").exists()
    assert not (sandbox / "out.checkpoints").exists()
