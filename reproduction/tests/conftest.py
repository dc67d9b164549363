"""A small plan of every kind of method, with tiny models and made-up data, run once for all tests."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Outcome as CommandOutcome
from tests.cli.conftest import Run, model, no_model_is_loaded, refused, sandbox, texts  # noqa: F401
from tests.conftest import (  # noqa: F401 - fixtures and hooks
    _own_cache,
    _quiet,
    minilm,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    sts_folder,
)

from matryoshka2d_reproduction.__main__ import main
from matryoshka2d_reproduction.dry_run import small
from matryoshka2d_reproduction.plan import Plan, plan_of
from matryoshka2d_reproduction.runner import Outcome, reproduce
from matryoshka2d_reproduction.runs import Request

CONTENT: dict[str, Any] = {
    "title": "A toy plan",
    "note": "Nothing here means anything.",
    "sizes": "1-2x8,16",
    "seeds": [0, 1],
    "backbones": {"tiny": {"model": "replaced"}},
    "data": {"toy": {"files": ["toy.jsonl"], "limit": 16}},
    "sts": ["sts"],
    "retrieval": ["beir"],
    "dev": {"sts": "sts", "captions": "captions.jsonl"},
    "defaults": {"batch_size": 4},
    "methods": {
        "untouched": {"kind": "untouched"},
        "fitted": {"kind": "fit"},
        "plain": {"strategy": "full", "learning_rate": 1e-3},
        "separate": {
            "kind": "separate",
            "sizes": "1x8 2x16",
            "choose": {"learning_rate": [1e-4, 1e-2]},
        },
        "theirs": {"kind": "sentence-transformers", "learning_rate": 1e-3},
        "ours": {"strategy": "all-sizes", "rotate": False, "learning_rate": 1e-2, "note": "the default"},
        "taught": {"strategy": "all-sizes", "objective": "distillation", "teacher": "plain"},
        "pca": {"kind": "cut", "of": "plain", "cut": "pca"},
        "turned": {"kind": "rotate", "of": "ours"},
        "random": {"kind": "cut", "of": "untouched", "cut": "random"},
        "both": {"kind": "average", "of": ["plain", "ours"], "weights": [1, 3], "seeds": [0]},
    },
    "compare": [["ours", "separate"], ["ours", "plain"], ["both", "untouched"]],
    "claims": [
        {"text": "Ours is fine.", "method": "ours", "other": "plain", "verdict": "mean at least as good"},
        {"text": "Ours keeps all.", "method": "ours", "other": "plain", "sizes": "2x8", "verdict": "keeps 1"},
    ],
    "reported": {"somewhere": {"full size": 82.65}},
}


def request_of(root: Path, **changes: Any) -> Request:
    """Return a request for the toy plan, its models and data written into a folder."""
    content = copy.deepcopy(CONTENT)
    content.update(changes)
    plan = plan_of(content, "toy", "toy.yaml")
    whole = small(plan, root)
    # A dry run takes one seed; here the seeds of the plan are wanted.
    kept: Plan = dataclasses.replace(whole, seeds=plan.seeds)
    methods = {
        name: dataclasses.replace(method, seeds=plan.methods[name].seeds)
        for name, method in kept.methods.items()
    }
    kept = dataclasses.replace(kept, methods=methods)
    return Request(kept, str(root / "data"), root / "results" / "toy", root / "cache", "plans/toy.yaml")


@dataclasses.dataclass(frozen=True)
class Ran:
    """A request that has run, what it did, and what it logged."""

    request: Request
    outcome: Outcome
    lines: list[str]


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Run the toy plan once."""
    request = request_of(tmp_path_factory.mktemp("toy"))
    lines: list[str] = []
    return Ran(request, reproduce(request, lines.append), lines)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command as a shell would, without a new process."""

    def call(*arguments: object) -> CommandOutcome:
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["matryoshka2d-reproduce", *map(str, arguments)])
        with pytest.raises(SystemExit) as raised:
            main()
        out, err = capfd.readouterr()
        return CommandOutcome(int(raised.value.code or 0), out, err)

    return call
