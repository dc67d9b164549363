"""Every command of the pages runs, on a model that is quick; their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from tests.test_docs import BLOCK, small_decoder, small_default, workplace  # noqa: F401 - fixtures

from matryoshka2d import cli
from matryoshka2d_reproduction.__main__ import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("plans/*.md"), *ROOT.glob("results/**/*.md")])


@pytest.mark.parametrize("page", ["plans/README.md", "pretraining.md"])
def test_every_command_and_example_runs_in_order(
    page: str,
    workplace: Path,  # noqa: F811 - a fixture
    small_default: str,  # noqa: F811 - a fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for home in ("models", "pretraining.pretrainer"):
        monkeypatch.setattr(
            f"matryoshka2d_reproduction.{home}.resolve_model",
            lambda name: small_default if name == "default" else name,
        )
    ran = 0
    for language, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if language == "yaml":
            (workplace / "plan.yaml").write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, page, "exec"), {"__name__": page})
            ran += 1
        else:
            for line in text.splitlines():
                command = {"matryoshka2d": cli.main, "matryoshka2d-reproduce": main}.get(line.split(" ")[0])
                if command is not None:
                    monkeypatch.setattr(sys, "argv", shlex.split(line))
                    with pytest.raises(SystemExit) as stopped:
                        command()
                    assert not stopped.value.code, line
                    ran += 1
    assert ran > 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_results_are_small() -> None:
    files = [file for file in (ROOT / "results").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 8e6
