"""The program around the commands: help, version, ways to start it, mistakes in the words themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import matryoshka2d
from matryoshka2d.cli.app import COMMANDS as REGISTERED
from tests.cli.conftest import Run

COMMANDS = (
    "fit",
    "distill",
    "train",
    "rotate",
    "evaluate",
    "plan",
    "encode",
)
MODULE = [sys.executable, "-m", "matryoshka2d"]
SCRIPT = [str(Path(sys.executable).with_name("matryoshka2d"))]


def test_the_commands_are_listed_in_the_order_in_which_a_user_meets_them(run: Run) -> None:
    outcome = run("--help")
    assert outcome.code == 0
    positions = [outcome.out.index(f"│ {command} ") for command in COMMANDS]
    assert positions == sorted(positions)


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    outcome = run()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == run("--help").out


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run: Run, command: str, flag: str) -> None:
    outcome = run(command, flag)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"Usage: matryoshka2d {command}" in outcome.out
    assert f"Example: matryoshka2d {command}" in outcome.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_and_option_says_what_it_is_for(command: str) -> None:
    for parameter in REGISTERED[command].load(command).params:
        assert getattr(parameter, "help", None), f"{command}: {parameter.name}"


@pytest.mark.parametrize("command", COMMANDS)
def test_json_and_quiet_are_options_of_every_command(command: str) -> None:
    flags = {flag for parameter in REGISTERED[command].load(command).params for flag in parameter.opts}
    assert {"--json", "--quiet", "-q"} <= flags


@pytest.mark.parametrize("command", REGISTERED)
def test_the_list_shows_the_first_line_of_a_commands_own_help(command: str) -> None:
    first = REGISTERED[command].load(command).help.split("\n\n")[0]
    assert REGISTERED[command].help == " ".join(first.split())


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version").out == f"matryoshka2d {matryoshka2d.__version__}\n"


@pytest.mark.parametrize("start", [MODULE, SCRIPT], ids=["module", "script"])
def test_it_starts_as_a_module_and_as_a_script(start: list[str]) -> None:
    done = subprocess.run([*start, "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"matryoshka2d {matryoshka2d.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "libraries"),
    [
        (["--help"], {"torch", "transformers", "numpy", "pydantic", "matryoshka2d.cli.train"}),
        (["train", "--help"], {"torch", "transformers"}),
    ],
    ids=["list", "command"],
)
def test_help_does_not_wait_for_what_it_does_not_need(words: list[str], libraries: set[str]) -> None:
    code = f"""
import sys
from matryoshka2d.cli import main
sys.argv = ["matryoshka2d", *{words}]
try:
    main()
finally:
    print({libraries} & set(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


class TestMistakes:
    """Each is one line, and nothing else."""

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["trian"], r"'trian'.*Did you mean 'train'"),
            (["encode"], "Missing argument"),
            (["encode", "m", "in.txt", "out.npy", "--size"], "'--size' requires an argument"),
            (["encode", "m", "in.txt", "out.npy", "--sise", "3x8"], "No such option.*--sise.*--size"),
            (["encode", "m", "in.txt", "out.npy", "--shard-rows", "many"], "'--shard-rows'"),
            (["encode", "m", "in.txt", "out.npy", "--shard-rows", "0"], "'--shard-rows'"),
            (["truncate", "m", "3x8", "out", "more"], "unexpected extra argument"),
            (["--frobnicate"], "No such option.*--frobnicate"),
            (["train", "--seed", "one"], "'--seed'"),
        ],
    )
    def test_words_that_no_command_knows(
        self, refused: Callable[..., str], words: list[str], said: str
    ) -> None:
        import re

        assert re.search(said, refused(*words))

    def test_a_mistake_in_a_real_process(self, tmp_path: Path) -> None:
        command = [*MODULE, "encode", "default", str(tmp_path / "no.txt"), str(tmp_path / "out.npy")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: there is no file {tmp_path / 'no.txt'}.\n"
