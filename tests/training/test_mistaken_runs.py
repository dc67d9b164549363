"""Runs that would lose work, diverge or teach nothing stop in one line, and leave what was good as it was."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

import matryoshka2d.training.finetuning as training_run
from matryoshka2d.errors import UserError
from matryoshka2d.losses.objectives import AnglE, CoSENT, Distillation, InfoNCE, Objective
from matryoshka2d.training.checkpoints import WholeCheckpoints, last_complete_checkpoint
from matryoshka2d.training.teachable import check_teaches
from matryoshka2d.training.teacher import teacher_vectors
from matryoshka2d.training.trainer import ElasticTrainer, StepOfLoss
from tests.training import small

FULL: dict[str, Any] = {"strategy": "full", "report_to": "none"}
"""The quickest run: six steps of the full size alone."""


class KilledError(Exception):
    """Stands for the death of the process."""


def killed_at(step: int, run: Callable[..., Any], *args: Any, **choices: Any) -> None:
    """Run until a step begins, and no further."""

    def dying(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == step:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.trainer_callback.DefaultFlowCallback.on_step_begin", dying)
        with pytest.raises(KilledError):
            run(*args, **choices)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestWorkOfAKilledRun:
    def test_the_same_command_again_keeps_it_and_says_how_to_go_on(
        self, tmp_path: Path, model: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        choices = {"checkpoints": True, **FULL}
        killed_at(4, small.run, tmp_path, model, **choices)
        before = snapshot(tmp_path)
        with pytest.raises(
            UserError, match=r"found checkpoints \(the last after step \d\) .*--resume goes on, "
        ) as said:
            small.run(tmp_path, model, **choices)
        assert str(said.value).endswith("--overwrite begins anew")
        assert snapshot(tmp_path) == before
        small.run(tmp_path, model, **choices, overwrite=True)
        assert (tmp_path / "out").is_dir()
        assert not (tmp_path / "out.checkpoints").exists()

    def test_a_tuned_teacher_is_work_too(self, tmp_path: Path, model: str) -> None:
        made = tmp_path / "out.checkpoints" / "teacher"
        made.mkdir(parents=True)
        with pytest.raises(UserError, match="found the tuned teacher of an unfinished run"):
            small.run(tmp_path, model, teacher="tuned")
        made.rename(made.with_name("teacher.checkpoints"))
        (made.with_name("teacher.checkpoints") / "checkpoint-3").mkdir()
        with pytest.raises(UserError, match="found checkpoints of the tuned teacher"):
            small.run(tmp_path, model, teacher="tuned")

    def test_what_a_kill_left_of_checkpoints_that_were_being_removed_goes(
        self, tmp_path: Path, model: str
    ) -> None:
        code = (
            "import os, shutil, signal, sys; from matryoshka2d.files import remove_folder\n"
            "shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
            "remove_folder(sys.argv[1])"
        )
        (tmp_path / "out.checkpoints" / "checkpoint-6").mkdir(parents=True)
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "out.checkpoints")], check=False)
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".out.checkpoints.tmp-")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "model").touch()
        with pytest.raises(UserError, match="out exists already"):
            small.run(tmp_path, model)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pairs.jsonl"]

    def test_a_mistake_beside_overwrite_loses_nothing(self, tmp_path: Path, model: str) -> None:
        (tmp_path / "out.checkpoints" / "checkpoint-3").mkdir(parents=True)
        with pytest.raises(UserError, match="too deep"):
            small.run(tmp_path, model, overwrite=True, dev=small.dev_file(tmp_path), dev_sizes="9x8")
        assert (tmp_path / "out.checkpoints" / "checkpoint-3").is_dir()

    def test_beginning_anew_says_what_it_removed(
        self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from matryoshka2d.training.unfinished import begin_anew

        begin_anew(tmp_path / "none", quiet=False)
        assert capsys.readouterr().err == ""
        for name, said in (
            ("runs", "was stopped before its first checkpoint"),
            ("checkpoint-12", "after step 12"),
        ):
            (tmp_path / "run" / name).mkdir(parents=True)
            begin_anew(tmp_path / "run", quiet=False)
            assert said in capsys.readouterr().err
            assert list(tmp_path.iterdir()) == []


class TestDivergence:
    def test_the_first_loss_that_is_not_finite_ends_the_run(self, tmp_path: Path, model: str) -> None:
        with pytest.raises(
            UserError, match=r"the loss of step \d of 6 is NaN or infinite: .*lower --learning"
        ) as said:
            small.run(tmp_path, model, **FULL, learning_rate=1e30, checkpoints=True, evaluations=6)
        assert not (tmp_path / "out").exists()
        last = last_complete_checkpoint(tmp_path / "out.checkpoints")
        assert last is not None
        assert str(said.value).endswith(f"the last good checkpoint is {last}")
        assert all(weight.isfinite().all() for weight in small.weights(small.load(Path(last))).values())

    def test_weights_that_the_last_step_broke_are_not_written(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        step = WholeCheckpoints.training_step

        def breaking(self: WholeCheckpoints, *args: Any, **kwargs: Any) -> Any:
            loss = step(self, *args, **kwargs)
            if self.state.global_step == 5:
                next(weight for weight in self.model.parameters() if weight.grad is not None).grad[:] = (
                    torch.nan
                )
            return loss

        monkeypatch.setattr(WholeCheckpoints, "training_step", breaking)
        for choices in ({}, {"checkpoints": True}):
            with pytest.raises(UserError, match="a weight after step 6 is NaN or infinite"):
                small.run(tmp_path, model, **FULL, **choices)
            assert not (tmp_path / "out").exists()
        assert "checkpoint-6" not in str(last_complete_checkpoint(tmp_path / "out.checkpoints"))

    def test_a_model_of_nan_is_named_at_the_first_step(self, tmp_path: Path, model: str) -> None:
        shutil.copytree(model, tmp_path / "nan")
        file = tmp_path / "nan" / "model.safetensors"
        weights = load_file(file)
        next(weights[name] for name in weights if "layer.2." in name)[0] = torch.nan
        save_file(weights, file, {"format": "pt"})
        before = {path.name for path in tmp_path.iterdir()}
        with pytest.raises(UserError, match=r"holds weights that are not finite: .*layer\.2\."):
            small.run(tmp_path, str(tmp_path / "nan"), **FULL)
        assert {path.name for path in tmp_path.iterdir()} - before <= {"pairs.jsonl", "texts.txt"}

    def test_a_teacher_of_nan_is_refused_and_keeps_no_vectors(self, tmp_path: Path, model: str) -> None:
        teacher = small.load(Path(model))
        with torch.no_grad():
            teacher[0].model.embeddings.word_embeddings.weight[teacher.tokenizer.vocab["dog"]] = torch.nan
        rows = Dataset.from_dict({"text": ["a cat", "the dog runs", "rain"]})
        with pytest.raises(UserError, match="the text 'the dog runs' has a vector that holds NaN"):
            teacher_vectors(teacher, rows, ["text"], cache=tmp_path)
        assert list(tmp_path.iterdir()) == []
        whole = small.load(Path(model))
        teacher_vectors(whole, rows, ["text"], cache=tmp_path)
        (kept,) = tmp_path.iterdir()
        vectors = np.load(kept)
        vectors[0] = np.inf
        np.save(kept, vectors)
        with pytest.raises(UserError, match="'a cat' has a vector that holds NaN or infinity"):
            teacher_vectors(whole, rows, ["text"], cache=tmp_path)


class TestNothingToLearn:
    @pytest.mark.parametrize(
        ("choices", "steps"),
        [({"epochs": 1 / 6}, 1), ({"max_steps": 1}, 1), ({"max_steps": 1, "warmup": 1}, 1)],
    )
    def test_a_run_of_one_step_is_no_warm_up(
        self, tmp_path: Path, model: str, choices: dict[str, Any], steps: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rates: list[float] = []
        begin = StepOfLoss.on_step_begin

        def noting(self: StepOfLoss, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            rates.append(kwargs["lr_scheduler"].get_last_lr()[0])
            begin(self, args, state, control, **kwargs)

        monkeypatch.setattr(StepOfLoss, "on_step_begin", noting)
        before = small.weights(small.load(Path(model)))
        after = small.weights(small.run(tmp_path, model, **FULL, **choices))
        assert len(rates) == steps
        assert max(rates) == pytest.approx(1e-3)
        assert any(not torch.equal(before[name], after[name]) for name in before)

    @pytest.mark.parametrize("rows", [1, 5])
    def test_batches_of_one_row_are_warned_of_where_rows_are_compared(
        self, tmp_path: Path, model: str, rows: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "same.jsonl"
        lines = [json.dumps({"anchor": "a cat", "positive": text}) for text in small.WORDS[:rows]]
        path.write_text("\n".join(lines) + "\n")
        small.run(tmp_path, model, data=[str(path)], **FULL)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"warning: {rows} of {rows} batches hold one row (")
        assert "InfoNCE learns from the other rows of a batch: there is nothing to learn" in line

    def test_one_row_with_a_negative_is_trained(self, tmp_path: Path, model: str) -> None:
        row = {"anchor": "a cat", "positive": "a dog", "negative": "rain"}
        (tmp_path / "one.jsonl").write_text(json.dumps(row) + "\n")
        small.run(tmp_path, model, data=[str(tmp_path / "one.jsonl")], **FULL)
        assert (tmp_path / "out").is_dir()

    @pytest.mark.parametrize("objective", ["cosent", "angle"])
    def test_scores_that_are_all_the_same_are_refused(
        self, tmp_path: Path, model: str, objective: str
    ) -> None:
        rows = [{**row, "score": 0.5} for row in small.rows("scored", 12)]
        (tmp_path / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(UserError, match="no batch holds two different scores"):
            small.run(tmp_path, model, data=[str(tmp_path / "same.jsonl")], objective=objective, **FULL)
        assert [entry.name for entry in tmp_path.iterdir()] == ["same.jsonl"]

    @pytest.mark.parametrize(
        ("objective", "columns", "scores", "batches", "said"),
        [
            (InfoNCE(), 2, None, [[0], [1]], "warning: 2 of 2 batches of 'a' hold one row"),
            (InfoNCE(), 3, None, [[0], [1]], None),
            (InfoNCE(), 2, None, [[0], [1], [2, 3]], None),
            (
                CoSENT(),
                2,
                [0.0, 0.0, 1.0, 1.0],
                [[0, 1], [2, 3]],
                "no batch of 'a' holds two different scores",
            ),
            (CoSENT(), 2, [0.0, 0.0, 1.0, 1.0], [[0, 1], [1, 2]], None),
            (CoSENT(), 2, [[0.0, 0], [0.0, 1], [0.0, 2], [0.0, 3]], [[0, 1, 2, 3]], "two different scores"),
            # In-batch negatives of pairs that mean the same need no second score.
            (AnglE(), 2, [1.0, 1.0, 1.0, 1.0], [[0, 1], [2, 3]], None),
            (Distillation(), 1, None, [[0], [1]], "warning: 2 of 2 batches of 'a' hold one row"),
            (Distillation(match_vectors=True), 1, None, [[0], [1]], None),
            (Distillation(), 1, None, [[0, 1], [2, 3]], "warning: the batches of 'a' are too small"),
        ],
    )
    def test_whether_batches_teach_is_asked_of_the_objective(
        self,
        objective: Objective,
        columns: int,
        scores: list[Any] | None,
        batches: list[list[int]],
        said: str | None,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        names = ["anchor", "positive", "negative"][:columns]
        made: dict[str, list[Any]] = {name: [f"{name} {i}" for i in range(4)] for name in names}
        if scores is not None:
            made["label" if isinstance(scores[0], list) else "score"] = scores
        rows = Dataset.from_dict(made)
        if said is not None and "scores" in said:
            with pytest.raises(UserError, match=said):
                check_teaches("a", rows, objective, batches, quiet=False)
            return
        check_teaches("a", rows, objective, batches, quiet=False)
        most_alone = sum(len(batch) == 1 for batch in batches) > len(batches) / 2
        line = capsys.readouterr().err
        assert line.startswith(said or ("note: " if most_alone else "")), line
        assert bool(line) is bool(said or most_alone)


class TestNoRoom:
    @pytest.fixture
    def small_files(self) -> Iterator[Callable[[int], None]]:
        """Limit the size of the files that this process writes, and lift the limit at the end."""
        former = resource.getrlimit(resource.RLIMIT_FSIZE)

        def limit(size: int) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))

        yield limit
        resource.setrlimit(resource.RLIMIT_FSIZE, former)

    def test_a_checkpoint_without_room_is_removed_and_the_run_says_so(
        self, tmp_path: Path, model: str, small_files: Callable[[int], None]
    ) -> None:
        data = [small.data_file(tmp_path)]
        before = {path.name for path in tmp_path.iterdir()}
        weights = (Path(model) / "model.safetensors").stat().st_size
        # The weights fit, and what the optimizer keeps, twice as much, does not.
        small_files(weights + weights // 2)
        with pytest.raises(
            UserError, match=r"cannot write .*out\.checkpoints: no room.*; nothing was left"
        ) as said:
            small.run(tmp_path, model, data=data, **FULL, checkpoints=True)
        assert "\n" not in str(said.value)
        assert {path.name for path in tmp_path.iterdir()} == before

    def test_whole_checkpoints_stay_and_are_named(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save = ElasticTrainer._save_optimizer_and_scheduler

        def full(self: ElasticTrainer, folder: str) -> None:
            if self.state.global_step >= 4:
                raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
            save(self, folder)

        monkeypatch.setattr(ElasticTrainer, "_save_optimizer_and_scheduler", full)
        with pytest.raises(UserError, match=r"checkpoint-2 is whole: make room, and --resume goes on"):
            small.run(tmp_path, model, **FULL, checkpoints=True, evaluations=3)
        left = [path.name for path in (tmp_path / "out.checkpoints").iterdir()]
        assert left == ["checkpoint-2"]
        monkeypatch.undo()
        small.run(tmp_path, model, **FULL, checkpoints=True, evaluations=3, resume=True)
        assert (tmp_path / "out").is_dir()

    def test_no_room_for_the_model_keeps_the_checkpoints(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(training_run, "write_model_card", full)
            with pytest.raises(UserError, match=r"cannot write .*/out: no room on the disk"):
                small.run(tmp_path, model, **FULL, checkpoints=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.checkpoints", "pairs.jsonl"]
        small.run(tmp_path, model, **FULL, checkpoints=True, resume=True)


class TestCache:
    DISTILLED: ClassVar[dict[str, Any]] = {
        **FULL,
        "strategy": "all-sizes",
        "teacher": "original",
        "fit_heads": False,
    }

    def test_where_it_cannot_be_written_the_vectors_stay_with_the_run(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        expected = small.weights(small.run(tmp_path, model, "usual", **self.DISTILLED))
        monkeypatch.setenv("MATRYOSHKA2D_CACHE", "/proc/no-cache")
        made = small.run(tmp_path, model, **self.DISTILLED)
        said = capsys.readouterr().err
        assert "note: the cache /proc/no-cache/teachers cannot be written (" in said
        assert "MATRYOSHKA2D_CACHE names another" in said
        assert all(torch.equal(expected[name], weight) for name, weight in small.weights(made).items())
        assert not (tmp_path / "out.checkpoints").exists()

    def test_where_it_has_no_room_too(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("matryoshka2d.training.teacher.take_room", full)
        monkeypatch.setenv("MATRYOSHKA2D_CACHE", str(tmp_path / "cache"))
        small.run(tmp_path, model, **self.DISTILLED)
        assert "cannot be written (No space left on device)" in capsys.readouterr().err
        assert list((tmp_path / "cache" / "teachers").iterdir()) == []

    def test_without_a_place_beside_it_the_variable_is_named(self, model: str) -> None:
        rows = Dataset.from_dict({"text": ["a cat"]})
        with pytest.raises(UserError, match="set MATRYOSHKA2D_CACHE to a folder that can be written"):
            teacher_vectors(small.load(Path(model)), rows, ["text"], cache=Path("/proc/no-cache"))

    def test_a_user_without_a_home_has_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from matryoshka2d.files import user_cache

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("MATRYOSHKA2D_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr("pathlib.Path.home", homeless)
        assert not user_cache("teachers").exists()
