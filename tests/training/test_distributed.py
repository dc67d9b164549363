"""Two processes with half of a batch each train what one process trains with the whole batch."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState

from matryoshka2d import cli
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.training import distributed as ranks
from matryoshka2d.training.checkpoints import last_complete_checkpoint
from matryoshka2d.training.trainer import EpochOfBatches, FullBatchSampler
from tests import tiny
from tests.loss_cases import assert_same
from tests.training import small
from tests.training.two_processes import CASES, ROWS, computed, loss_of, rows_of

ROOT = Path(__file__).parent.parent.parent


def torchrun(*words: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Start processes as a user would, and wait for them."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return started(*launcher, "--nproc-per-node", processes, "-m", *words)


def started(*words: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=folder,
        timeout=300,
    )


class TestTheLoss:
    """One start of two processes for all cases: starting them is what takes the time."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("two")
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        path = tiny.sentence_model(folder / "made", initializer_range=0.1, **still)
        Path(path).rename(folder / "still")
        done = torchrun("tests.training.two_processes", "gradients", folder)
        assert done.returncode == 0, done.stderr
        return folder

    @pytest.fixture(scope="class")
    def found(self, folder: Path) -> list[dict[str, Any]]:
        return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]

    @pytest.fixture(scope="class")
    def encoder(self, folder: Path) -> ElasticEncoder:
        encoder = ElasticEncoder(str(folder / "still"), device="cpu").train()
        encoder.add_heads()
        return encoder

    @pytest.mark.parametrize("case", CASES)
    def test_it_and_its_gradient_are_those_of_one_process(
        self, found: list[dict[str, Any]], encoder: ElasticEncoder, case: str
    ) -> None:
        whole = computed(encoder, loss_of(encoder, case), rows_of(encoder, case, slice(0, ROWS)))
        for rank in (0, 1):
            assert_same(found[rank][case], whole)

    def test_processes_may_have_different_numbers_of_rows(
        self, found: list[dict[str, Any]], encoder: ElasticEncoder
    ) -> None:
        case = "infonce, cached"
        whole = computed(encoder, loss_of(encoder, case), rows_of(encoder, case, slice(0, ROWS)))
        for rank in (0, 1):
            assert_same(found[rank]["uneven"], whole)

    def test_half_a_batch_has_another_loss(self, encoder: ElasticEncoder) -> None:
        # What would be computed if the processes did not exchange their vectors.
        case = "infonce on pairs, 2dmse"
        whole, _ = computed(encoder, loss_of(encoder, case), rows_of(encoder, case, slice(0, ROWS)))
        half, _ = computed(encoder, loss_of(encoder, case), rows_of(encoder, case, slice(0, 16)))
        assert (whole - half).abs() > 0.1

    def test_what_the_loss_draws_is_the_same_everywhere(self, found: list[dict[str, Any]]) -> None:
        assert torch.equal(found[0]["chance"][0], found[1]["chance"][0])


def weights(folder: Path) -> dict[str, Tensor]:
    return small.weights(small.load(folder))


@pytest.mark.slow
class TestRuns:
    """Whole runs, in processes that torchrun starts: half a minute."""

    def train(self, folder: Path, *runs: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        (folder / "runs.json").write_text(json.dumps(runs))
        return torchrun("tests.training.two_processes", "runs", folder)

    def test_two_processes_end_with_the_model_of_one(self, tmp_path: Path, model: str) -> None:
        data = [small.data_file(tmp_path, "pairs", 48), small.data_file(tmp_path, "scored", 48, seed=1)]
        choices = {"data": data, "batch_size": 16, "learning_rate": 1e-2, "dropout": 0.0}
        # The tuned teacher is a run of its own, within the run.
        both = [
            {**choices, "teacher": "tuned", "output": "tuned"},
            {**choices, "strategy": "2dmse", "output": "drawn", "mini_batch_tokens": 60, "checkpoints": True},
            {**choices, "teacher": "original", "output": "streamed", "streaming": True, "max_steps": 6}
            | {"mix": "fixed", "mix_weights": {"pairs": 2, "scored": 1}},
        ]
        done = self.train(tmp_path, *({"model": model, **run} for run in both))
        assert done.returncode == 0, done.stderr
        for run in both:
            alone = small.run(tmp_path, model, **{**run, "output": "alone", "overwrite": True})
            together = small.load(tmp_path / run["output"])
            before, *after = (m.exits(tiny.TEXTS) for m in (small.load(Path(model)), alone, together))
            for n in (1, 2, 3, 4):
                assert abs(after[0][n] - before[n]).max() > 0.05
                assert abs(after[1][n] - after[0][n]).max() < 2e-3
            assert not (tmp_path / f"{run['output']}.checkpoints").exists()

    def test_the_commands_of_the_docs(self, tmp_path: Path) -> None:
        page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
        commands = [shlex.split(line) for line in page.splitlines() if re.match(r"torchrun|accelerate", line)]
        assert [words[0] for words in commands] == ["torchrun", "accelerate"]
        Path(small.data_file(tmp_path, "triplets", 256)).rename(tmp_path / "triplets.jsonl")
        for launcher, *words in commands:
            done = started(
                str(Path(sys.executable).parent / launcher), *words, "--device", "cpu", folder=tmp_path
            )
            assert done.returncode == 0, done.stderr
            assert small.load(tmp_path / "two-device-model").depth == 6

    def test_a_run_that_is_killed_and_resumed_ends_with_the_weights_of_an_unbroken_one(
        self, tmp_path: Path, model: str
    ) -> None:
        # With dropout, whose random numbers each process has its own of.
        choices = {"model": model, "data": [small.data_file(tmp_path)], "strategy": "2dmse", "dropout": 0.2}
        choices |= {"checkpoints": True, "epochs": 2, "evaluations": 4, "seed": 5}
        step = random.randrange(4, 12)
        whole, broken = {**choices, "output": "whole"}, {**choices, "output": "broken"}
        assert self.train(tmp_path, whole, {**broken, "dies_at": step}).returncode != 0
        assert not (tmp_path / "broken").exists()
        last = last_complete_checkpoint(tmp_path / "broken.checkpoints")
        assert last is not None
        assert last.endswith(f"checkpoint-{step // 3 * 3}"), f"died at step {step}"
        assert {f"rng_state_{rank}.pth" for rank in (0, 1)} <= {path.name for path in Path(last).iterdir()}
        done = self.train(tmp_path, {**broken, "resume": True})
        assert done.returncode == 0, done.stderr
        found, expected = weights(tmp_path / "broken"), weights(tmp_path / "whole")
        assert all(torch.equal(found[name], expected[name]) for name in expected), f"died at step {step}"


def test_a_run_that_goes_on_within_an_epoch_sees_its_batches() -> None:
    rows = Dataset.from_list(small.rows("pairs", 32))
    sampler = FullBatchSampler(rows, 8, drop_last=True)
    sampler.set_epoch(1)
    expected = [batch[4:] for batch in sampler][2:]
    sampler.set_epoch(0)
    ours = BatchSamplerShard(
        sampler, num_processes=2, process_index=1, split_batches=True, even_batches=False
    )
    loader = DataLoader(rows, batch_sampler=ours)
    state = TrainerState(epoch=1.5)
    EpochOfBatches().on_epoch_begin(None, state, TrainerControl(), train_dataloader=loader)
    assert list(skip_first_batches(loader, 2).batch_sampler) == expected


class TestMistakes:
    """One line, exit code 2, and the first process alone says it."""

    def test_a_batch_that_does_not_divide(self, tmp_path: Path, model: str) -> None:
        words = ["--model", model, "--data", small.data_file(tmp_path), "--output", tmp_path / "out"]
        done = torchrun("matryoshka2d", "train", *words, "--device", "cpu", "--batch-size", 7)
        said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert len(said) == 1, done.stderr
        assert "batch_size 7 does not divide among 2 processes" in said[0]
        assert "--batch-size 8" in said[0]
        # The launcher names process ids, one of which may begin with a 1.
        assert "process 1: " not in done.stderr
        assert "exitcode  : 2" in done.stderr
        assert not list(tmp_path.glob("out*"))

    @pytest.mark.parametrize(("size", "among", "fits"), [(7, 2, 8), (64, 3, 63), (2, 8, 8), (100, 8, 96)])
    def test_the_batch_that_is_proposed_divides(
        self, monkeypatch: pytest.MonkeyPatch, size: int, among: int, fits: int
    ) -> None:
        monkeypatch.setattr(ranks, "processes", lambda: among)
        with pytest.raises(UserError, match=rf"batch_size {size} .* --batch-size {fits}$"):
            ranks.check_batch_size(size)
        ranks.check_batch_size(fits)

    def test_rows_that_fill_no_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = Dataset.from_list(small.rows("pairs", 5))
        assert [len(batch) for batch in FullBatchSampler(rows, 8, drop_last=True)] == [5]
        monkeypatch.setattr("matryoshka2d.training.trainer.processes", lambda: 2)
        with pytest.raises(UserError, match=r"5 rows fill no batch of 8 .* lower --batch-size"):
            FullBatchSampler(rows, 8, drop_last=True)

    def test_a_process_whose_mistake_is_its_own_speaks_after_a_while(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setattr(cli, "_FIRST_SPEAKS", 0.0)
        monkeypatch.setattr(sys, "argv", ["matryoshka2d", "train"])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
        assert capsys.readouterr().err.startswith("error: process 1: no training data")
