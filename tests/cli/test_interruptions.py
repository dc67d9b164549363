"""Stopped in the middle of a save: the output is absent or as it was, never half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from matryoshka2d.inference.request_batching import BatchingEngine
from tests.cli.conftest import Run

# The command, halted where half of the output is on disk.
HALTED = """
import sys, time
from pathlib import Path
from sentence_transformers import SentenceTransformer
from matryoshka2d.cli import main

def save(self, path, *arguments, **options):
    Path(path, "half").write_text("half")
    print("saving", flush=True)
    time.sleep(60)

SentenceTransformer.save = save
sys.argv = ["matryoshka2d", *sys.argv[1:]]
main()
"""


@pytest.fixture(params=["absent", "there"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the name of an output that is absent, or that is there already."""
    path = tmp_path / "out"
    if request.param == "there":
        path.mkdir()
        (path / "old").write_text("old")
    return path


@pytest.fixture
def as_it_was(target: Path) -> object:
    """Check afterwards that the output is what it was before."""
    was_there = target.exists()
    yield
    if was_there:
        assert [(path.name, path.read_text()) for path in target.iterdir()] == [("old", "old")]
    else:
        assert not target.exists()


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("as_it_was")
class TestInterrupted:
    @pytest.mark.parametrize(
        ("words", "place"),
        [
            ("truncate {model} 2x8 {target} --overwrite", "sentence_transformers.SentenceTransformer.save"),
            (
                "evaluate {model} --sts {sts} --sizes 1,2x8 --output {target} --overwrite",
                "matryoshka2d.evaluation.report.folder.write_report",
            ),
            (
                "train --model {model} --data {pairs} --output {target} --overwrite -q --no-checkpoints",
                "matryoshka2d.training.finetuning.write_model_card",
            ),
        ],
        ids=lambda words: words.split()[0],
    )
    def test_by_the_keyboard(
        self,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
        model: str,
        sts: Path,
        pairs: Path,
        target: Path,
        words: str,
        place: str,
    ) -> None:
        monkeypatch.setattr(place, interrupt)
        before = {path.name for path in target.parent.iterdir()}
        outcome = run(*words.format(model=model, sts=sts, pairs=pairs, target=target).split())
        assert outcome.code == 130
        assert outcome.err.splitlines()[-1].startswith("error: interrupted")
        assert "Traceback" not in outcome.err
        after = {path.name for path in target.parent.iterdir()}
        # Checkpoints of a run may stay, so that it can be resumed.
        assert after - before <= {"out.checkpoints"}

    def test_by_a_kill(self, model: str, target: Path) -> None:
        process = halted_in_the_middle(model, target)
        process.kill()
        process.communicate(timeout=60)


def halted_in_the_middle(model: str, target: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HALTED, "truncate", model, "2x8", str(target), "--overwrite"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    return process


def test_a_signal_of_the_keyboard_in_a_real_process(model: str, tmp_path: Path) -> None:
    process = halted_in_the_middle(model, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "error: interrupted: nothing was left half-written\n"
    assert list(tmp_path.iterdir()) == []


def test_a_killed_command_does_not_stand_in_the_way_of_the_next(run: Run, model: str, tmp_path: Path) -> None:
    # What a killed process leaves: a hidden folder beside the output.
    (tmp_path / ".out.tmp-killed" / "out").mkdir(parents=True)
    assert run("truncate", model, "2x8", tmp_path / "out", "-q").code == 0


@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
def test_vectors_are_written_whole_or_not_at_all(
    run: Run, monkeypatch: pytest.MonkeyPatch, model: str, texts: Path, tmp_path: Path, suffix: str
) -> None:
    target = tmp_path / f"vectors{suffix}"
    target.write_text("old")
    monkeypatch.setattr("matryoshka2d.inference.encoding._CHUNK", 2)
    calls: list[int] = []
    whole = BatchingEngine.embed

    def stop_at_the_second_chunk(*arguments: object, **options: object) -> object:
        calls.append(1)
        return whole(*arguments, **options) if len(calls) == 1 else interrupt()  # type: ignore[arg-type]

    monkeypatch.setattr(BatchingEngine, "embed", stop_at_the_second_chunk)
    outcome = run("encode", model, texts, target, "--overwrite", "-q")
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == "error: interrupted: nothing was left half-written\n"
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
