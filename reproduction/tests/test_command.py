"""run and report on the command line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from reproduction.tests.conftest import CONTENT
from tests.cli.conftest import Run

METHODS = ("untouched", "plain", "separate")
PLANS = Path(__file__).parents[1] / "plans"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a plan of three methods, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MATRYOSHKA2D_DATA", raising=False)
    content = copy.deepcopy(CONTENT)
    content["methods"] = {name: content["methods"][name] for name in METHODS}
    content |= {"compare": [["separate", "plain"]], "claims": []}
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_dry_run_needs_no_data_and_leaves_nothing(run: Run, plan: Path, tmp_path: Path) -> None:
    outcome = run("run", "toy.yaml", "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    assert len(outcome.json["done"]) == 4
    assert [file.name for file in tmp_path.iterdir()] == ["toy.yaml"]


def test_a_plan_runs_and_is_reported(run: Run, plan: Path, tmp_path: Path, model: str) -> None:
    from matryoshka2d_reproduction.dry_run import small
    from matryoshka2d_reproduction.plan import read_plan

    small(read_plan(plan), tmp_path)
    content = yaml.safe_load(plan.read_text())
    content["backbones"] = {"tiny": {"model": model}}
    plan.write_text(yaml.safe_dump(content, sort_keys=False))
    outcome = run("run", "toy.yaml", "--data", "data", "--only", "untouched", "--only", "plain")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "3 runs done, 0 were there.\nNext: matryoshka2d-reproduce report results/toy\n"
    assert outcome.err.startswith("toy: 3 runs and 0 trials on dev to do")
    again = run("run", "toy.yaml", "--data", "data", "--only", "plain", "--seeds", "1", "--json")
    assert again.json == {"done": [], "found": ["plain seed 1 tiny toy"]}
    reported = run("report", "results/toy", "--resamples", "20", "--page", "results.md")
    assert reported.code == 0, reported.err
    assert reported.out.splitlines()[-2:] == ["results/toy/README.md", "results.md"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run no.yaml", "plan no.yaml does not exist"),
        ("run toy.yaml", "no data folder: expected --data FOLDER"),
        ("run toy.yaml --data data --seeds one", "seeds 'one': expected whole numbers"),
        ("run toy.yaml --data data --only plian", "Did you mean 'plain'"),
        ("run toy.yaml --data nowhere", "is not in the data folder nowhere"),
        ("run toy.yaml --data data --jobs 0", "'--jobs'"),
        ("report nowhere", "holds no results of a plan"),
        ("report toy.yaml", "holds no results of a plan"),
    ],
)
def test_mistakes_are_one_line(refused: Callable[..., str], plan: Path, words: str, said: str) -> None:
    assert said in refused(*words.split())


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(PLANS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_plan_of_the_repository_goes_through_dry(run: Run, file: Path) -> None:
    outcome = run("run", file, "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["done"]
