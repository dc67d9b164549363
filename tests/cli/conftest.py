"""A tiny model, tiny data, and the command line called in this process."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from matryoshka2d.cli import main
from tests import tiny


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command as a shell would, without a new process."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["matryoshka2d", *map(str, arguments)])
        with pytest.raises(SystemExit) as raised:
            main()
        out, err = capfd.readouterr()
        return Outcome(int(raised.value.code or 0), out, err)

    return call


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Run a command that must be refused as a newcomer's mistake, and return the one line that it says."""

    def call(*arguments: object) -> str:
        outcome = run(*arguments)
        lines = outcome.err.splitlines()
        assert outcome.code == 2, outcome
        assert len(lines) == 1, outcome.err
        assert lines[0].startswith("error: ")
        assert outcome.out == ""
        return lines[0].removeprefix("error: ")

    return call


@pytest.fixture
def no_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a command loads a model: what is tested here must be said before."""

    def load(*arguments: object, **options: object) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr("matryoshka2d.encoder.elastic.ElasticEncoder.__init__", load)
    monkeypatch.setattr("matryoshka2d.encoder.saved_model._read", load)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a model of 4 layers and 32 dims."""
    return tiny.sentence_model(tmp_path_factory.mktemp("tiny"), prompts={"query": "query : "})


@pytest.fixture(scope="session")
def unknown_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a model whose architecture is not in the table."""
    folder = tmp_path_factory.mktemp("unknown")
    return tiny.sentence_model(folder, "albert", embedding_size=16, num_hidden_groups=1)


def sentence(rng: random.Random) -> str:
    return " ".join(rng.sample(tiny.WORDS.split(), 5))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 24 positive pairs."""
    rng = random.Random(0)
    rows = [{"anchor": sentence(rng), "positive": sentence(rng)} for _ in range(24)]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def sts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two sets, each with a test and a dev split; one is not in English."""
    folder = tmp_path_factory.mktemp("sts")
    for number, name in enumerate(("sts12", "stsb-de")):
        rng = random.Random(number)
        extra = " schöne Straße" if name.endswith("de") else ""
        lines = ["split\tscore\tsentence1\tsentence2"]
        for split in ("test", "dev"):
            lines += [f"{split}\t{i % 6}\t{sentence(rng)}{extra}\t{sentence(rng)}" for i in range(12)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a retrieval set in BEIR form."""
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("beir") / "toy"
    folder.mkdir()
    for name, count in (("corpus", 12), ("queries", 4)):
        rows = [{"_id": f"{name[0]}{i}", "text": sentence(rng)} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judgments = "".join(f"q{i}\tc{2 * i}\t1\n" for i in range(4))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgments)
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of texts, one a line."""
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(tiny.TEXTS) + "\n")
    return path


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> Path:
    """Return the working folder, with texts, a model and a folder that is in use."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(tiny.TEXTS) + "\n")
    (tmp_path / "model").symlink_to(model, target_is_directory=True)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "precious").write_text("keep me")
    return tmp_path
