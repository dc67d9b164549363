"""A killed run goes on from its last whole checkpoint and ends with the weights of an unbroken one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from matryoshka2d.data.batch_sampler import GroupDroppingCollator
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.training.checkpoints import last_complete_checkpoint, seconds_before
from matryoshka2d.training.trainer import ElasticTrainer, StepOfLoss
from tests.training import small

STEPS = 12


class KilledError(Exception):
    """Stands for the death of the process where a test does not need a real one."""


def run(folder: Path, model: str, output: str, **choices: Any) -> dict[str, Tensor]:
    """Train twelve steps in two epochs, a checkpoint after every third; return the final weights."""
    defaults = {"checkpoints": True, "epochs": 2, "evaluations": 4, "seed": 5}
    return small.weights(small.run(folder, model, output, **{**defaults, **choices}))


def die_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    begin = StepOfLoss.on_step_begin

    def dying(self: StepOfLoss, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == step:
            raise KilledError
        return begin(self, args, state, control, **kwargs)

    monkeypatch.setattr(StepOfLoss, "on_step_begin", dying)


def killed(folder: Path, model: str, output: str, step: int, **choices: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, step)
        with pytest.raises(KilledError):
            run(folder, model, output, **choices)
    assert not (folder / output).exists()


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_that_goes_on_counts_from_where_it_was_killed(tmp_path: Path, model: str) -> None:
    killed(tmp_path, model, "broken", 4)
    folder = tmp_path / "broken.checkpoints"
    first = seconds_before(folder)
    state = folder / "checkpoint-3" / "trainer_state.json"
    kept = json.loads(state.read_text())
    kept["stateful_callbacks"]["Elapsed"]["args"]["before"] = first + 1000
    state.write_text(json.dumps(kept))
    killed(tmp_path, model, "broken", 8, resume=True)
    assert checkpoints(tmp_path, "broken")[-1] == "checkpoint-6"
    assert 1000 + first < seconds_before(folder) < 1100 + first


def checkpoints(folder: Path, output: str) -> list[str]:
    return sorted(path.name for path in (folder / f"{output}.checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize("strategy", ["all-sizes", "2dmse"])
def test_a_run_that_is_killed_anywhere_and_resumed_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, model: str, strategy: str
) -> None:
    whole = run(tmp_path, model, "whole", strategy=strategy)
    chance = random.Random(strategy)
    for number in range(2):
        step = chance.randrange(3, STEPS)
        output = f"broken-{number}"
        started = time.perf_counter()
        killed(tmp_path, model, output, step, strategy=strategy)
        last = last_complete_checkpoint(tmp_path / f"{output}.checkpoints")
        assert last is not None
        assert last.endswith(f"checkpoint-{step // 3 * 3}")
        assert 0 < seconds_before(tmp_path / f"{output}.checkpoints") < time.perf_counter() - started
        assert_equal(run(tmp_path, model, output, strategy=strategy, resume=True), whole)
        assert_equal(small.weights(small.load(tmp_path / output)), whole)
        assert not (tmp_path / f"{output}.checkpoints").exists()


@pytest.mark.parametrize(
    ("forms", "step", "choices"),
    [
        (["texts"], 5, {}),
        (["pairs"], 5, {"gradient_accumulation": 2}),
        (["pairs", "scored"], 8, {}),
        (["pairs", "scored"], 8, {"mix": "fixed", "mix_weights": {"pairs": 1, "scored": 3}}),
        (["pairs"], 5, {"dev": "sts.tsv"}),
    ],
)
def test_it_does_so_whatever_is_trained(
    tmp_path: Path, model: str, forms: list[str], step: int, choices: dict[str, Any]
) -> None:
    choices = {**choices, "data": [small.data_file(tmp_path, form, seed=i) for i, form in enumerate(forms)]}
    if "dev" in choices:
        choices["dev"] = small.dev_file(tmp_path)
    whole = run(tmp_path, model, "whole", **choices)
    killed(tmp_path, model, "broken", step, **choices)
    assert_equal(run(tmp_path, model, "broken", resume=True, **choices), whole)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forked")
@pytest.mark.parametrize("choices", [{"teacher": "tuned"}, {"strategy": "2dmse"}])
def test_workers_that_tokenize_ahead_change_nothing(
    tmp_path: Path,
    model: str,
    choices: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = [small.data_file(tmp_path, form, seed=i) for i, form in enumerate(["pairs", "scored"])]
    choices = {**choices, "data": data}
    whole = run(tmp_path, model, "whole", **choices)
    collate, here = GroupDroppingCollator.__call__, os.getpid()

    def elsewhere(self: GroupDroppingCollator, rows: list[dict[str, Any]]) -> dict[str, Any]:
        assert os.getpid() != here, "tokenized by the process that trains"
        return collate(self, rows)

    monkeypatch.setattr(GroupDroppingCollator, "__call__", elsewhere)
    killed(tmp_path, model, "broken", 8, workers=2, **choices)
    assert_equal(run(tmp_path, model, "broken", resume=True, workers=2, **choices), whole)
    assert "tokenizers" not in capfd.readouterr().err


def test_the_best_checkpoint_of_before_the_kill_is_remembered(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matryoshka2d.training.trainer import DevGrid

    scores = {3: 90.0, 6: 10.0, 9: 20.0, 12: 30.0}
    call = DevGrid.__call__

    def scored(self: DevGrid, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Any:
        return {**call(self, model, output_path, epoch, steps), "dev_mean": scores[steps]}

    monkeypatch.setattr(DevGrid, "__call__", scored)
    dev = small.dev_file(tmp_path)
    whole = run(tmp_path, model, "whole", dev=dev)
    killed(tmp_path, model, "broken", 11, dev=dev)
    # The best one is kept beside the last one.
    assert checkpoints(tmp_path, "broken") == ["checkpoint-3", "checkpoint-9"]
    assert_equal(run(tmp_path, model, "broken", dev=dev, resume=True), whole)


def test_a_kill_after_the_last_step_loses_nothing(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path, model, "whole")

    def die(*_: Any, **__: Any) -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matryoshka2d.training.finetuning.write_model_card", die)
        with pytest.raises(KilledError):
            run(tmp_path, model, "broken")
    assert not (tmp_path / "broken").exists()
    assert_equal(run(tmp_path, model, "broken", resume=True), whole)


def test_a_checkpoint_that_was_being_written_is_not_looked_at(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path, model, "whole")

    save = ElasticTrainer._save_rng_state

    def die(self: ElasticTrainer, output: str) -> None:
        if self.state.global_step == 9:
            raise KilledError
        save(self, output)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ElasticTrainer, "_save_rng_state", die)
        with pytest.raises(KilledError):
            run(tmp_path, model, "broken")
    folder = tmp_path / "broken.checkpoints"
    assert (folder / "unfinished" / "checkpoint-9" / "model.safetensors").is_file()
    assert last_complete_checkpoint(folder) == str(folder / "checkpoint-6")
    assert_equal(run(tmp_path, model, "broken", resume=True), whole)


def test_every_checkpoint_is_an_elastic_model_with_its_heads(tmp_path: Path, model: str) -> None:
    killed(tmp_path, model, "broken", 11)
    assert checkpoints(tmp_path, "broken") == ["checkpoint-6", "checkpoint-9"]
    found = ElasticEncoder(str(tmp_path / "broken.checkpoints" / "checkpoint-9"), device="cpu")
    assert found.heads is not None
    assert found.heads.layers() == [1, 2, 3]


def test_with_overwrite_an_old_checkpoint_is_not_used(tmp_path: Path, model: str) -> None:
    whole = run(tmp_path, model, "whole")
    killed(tmp_path, model, "broken", 7, learning_rate=1e-2)
    assert_equal(run(tmp_path, model, "broken", overwrite=True), whole)


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "an unfinished checkpoint"])
def test_nothing_to_resume_is_one_line_and_leaves_everything_as_it_was(
    tmp_path: Path, model: str, left: str
) -> None:
    folder = tmp_path / "out.checkpoints"
    if left != "nothing":
        folder.mkdir()
    if left == "an unfinished checkpoint":
        (folder / "unfinished" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(UserError, match=r"nothing to resume.*without --resume") as raised:
        run(tmp_path, model, "out", resume=True)
    assert "\n" not in str(raised.value)
    assert folder.exists() is (left != "nothing")
    assert not (tmp_path / "out").exists()


def test_nothing_to_resume_is_said_before_a_model_is_loaded(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "matryoshka2d.training.finetuning.ElasticEncoder", lambda *_, **__: pytest.fail("loaded")
    )
    with pytest.raises(UserError, match="nothing to resume"):
        run(tmp_path, model, "out", resume=True)


KILLING = """
import json, os, signal, sys

import torch

from matryoshka2d.training import train
from matryoshka2d.training.trainer import ElasticTrainer, StepOfLoss

torch.set_num_threads(1)
step, where, choices = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
if where == "while saving":
    save = ElasticTrainer._save_optimizer_and_scheduler

    def dying(self, folder):
        if self.state.global_step >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, folder)

    ElasticTrainer._save_optimizer_and_scheduler = dying
else:
    begin = StepOfLoss.on_step_begin

    def dying(self, args, state, control, **kwargs):
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return begin(self, args, state, control, **kwargs)

    StepOfLoss.on_step_begin = dying
train(quiet=True, **choices)
"""


@pytest.mark.parametrize(("where", "step", "last"), [("in a step", 8, 6), ("while saving", 9, 6)])
def test_a_process_that_is_killed_for_good_can_be_resumed(
    tmp_path: Path, model: str, where: str, step: int, last: int
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = run(tmp_path, model, "whole")
        choices = {
            "model": model,
            "data": [str(tmp_path / "pairs.jsonl")],
            "output": str(tmp_path / "broken"),
            "batch_size": 4,
            "learning_rate": 1e-3,
            "device": "cpu",
            "precision": "fp32",
            "epochs": 2,
            "evaluations": 4,
            "seed": 5,
            "teacher": "self",
        }
        command = [sys.executable, "-c", KILLING, str(step), where, json.dumps(choices)]
        ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
        assert ended.returncode == -signal.SIGKILL
        folder = tmp_path / "broken.checkpoints"
        assert not (tmp_path / "broken").exists()
        assert last_complete_checkpoint(folder) == str(folder / f"checkpoint-{last}")
        if where == "while saving":
            assert (folder / "unfinished" / "checkpoint-9" / "model.safetensors").is_file()
        assert_equal(run(tmp_path, model, "broken", resume=True), whole)
    finally:
        torch.set_num_threads(threads)
