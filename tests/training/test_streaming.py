"""Training on streams: the rows, teachers and steps of training in memory, resumed and refused as well."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from pyarrow import parquet

from matryoshka2d import cli
from matryoshka2d.data.batch_sampler import GroupDroppingCollator
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.losses.elastic_loss import ElasticLoss
from matryoshka2d.training.stream_shares import batches_of_run, mixture_shares
from matryoshka2d.training.teacher import LiveTeacher, teacher_vectors
from matryoshka2d.training.trainer import ElasticTrainer
from matryoshka2d.training.training_options import TrainingOptions
from tests.training import small
from tests.training.test_resume import assert_equal, killed


def shards(folder: Path, form: str, count: int = small.ROWS, parts: int = 3, seed: int = 0) -> str:
    """Write Parquet shards of small rows and return their folder."""
    home = folder / form
    home.mkdir()
    rows = small.rows(form, count, seed)
    for part in range(parts):
        parquet.write_table(pyarrow.Table.from_pylist(rows[part::parts]), home / f"{part}.parquet")
    return str(home)


STREAMED: dict[str, Any] = {"streaming": True, "shuffle_buffer": 12}


def steps_of(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list that fills with the inputs of every step, and the data set of its batch."""
    seen: list[list[str]] = []
    step = ElasticTrainer.training_step

    def noting(self: ElasticTrainer, model: Any, inputs: Any, *args: Any, **choices: Any) -> Any:
        seen.append([inputs.get("dataset_name"), *(n for n in inputs if n.endswith("input_ids"))])
        return step(self, model, inputs, *args, **choices)

    monkeypatch.setattr(ElasticTrainer, "training_step", noting)
    return seen


class TestRuns:
    def test_an_epoch_of_parquet_has_as_many_steps_as_its_rows_make(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = steps_of(monkeypatch)
        small.run(tmp_path, model, data=[shards(tmp_path, "pairs")], **STREAMED, epochs=1.5)
        assert seen == [[None, "anchor_input_ids", "positive_input_ids"]] * 9

    @pytest.mark.parametrize("streaming", [True, False])
    def test_sources_take_turns_by_their_shares(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, streaming: bool
    ) -> None:
        seen = steps_of(monkeypatch)
        data = [small.data_file(tmp_path, "pairs"), small.data_file(tmp_path, "scored", seed=1)]
        mix = {"mix": "fixed", "mix_weights": {"pairs": 3, "scored": 1}, "max_steps": 4}
        small.run(tmp_path, model, data=data, **(STREAMED if streaming else {}), **mix)
        assert [name for name, *_ in seen] == ["pairs", "pairs", "pairs", "scored"]

    def test_steps_count_what_moves_the_weights(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = steps_of(monkeypatch)
        data = [small.data_file(tmp_path)]
        small.run(tmp_path, model, data=data, **STREAMED, max_steps=3, gradient_accumulation=2)
        assert len(seen) == 6
        assert "--streaming" in (tmp_path / "out" / "README.md").read_text()

    @pytest.mark.parametrize(
        ("forms", "choices"),
        [
            (["pairs", "scored"], {"teacher": "tuned"}),
            (["texts"], {"teacher": "original"}),
            (["triplets"], {"strategy": "2dmse", "mini_batch_tokens": 60}),
        ],
    )
    def test_whatever_is_trained_may_be_streamed_and_resumed(
        self, tmp_path: Path, model: str, forms: list[str], choices: dict[str, Any]
    ) -> None:
        data = [shards(tmp_path, form, seed=i) for i, form in enumerate(forms)]
        choices = {**choices, "data": data, "checkpoints": True, "epochs": 2, "seed": 5, **STREAMED}
        whole = small.weights(small.run(tmp_path, model, "whole", **choices))
        killed(tmp_path, model, "broken", 8, **choices)
        assert_equal(small.weights(small.run(tmp_path, model, "broken", resume=True, **choices)), whole)


class TestTeachers:
    """A live teacher says what vectors that were stored before say."""

    @pytest.mark.parametrize(("form", "objective"), [("pairs", "infonce"), ("scored", "cosent")])
    @pytest.mark.parametrize("distils", [False, True])
    def test_the_loss_is_that_of_stored_vectors(
        self, tmp_path: Path, model: str, form: str, objective: str, distils: bool
    ) -> None:
        from datasets import Dataset

        from matryoshka2d.data import format_of, text_columns
        from matryoshka2d.training.teacher import with_teacher

        encoder = ElasticEncoder(model, device="cpu").eval()
        rows = Dataset.from_list(small.rows(form, 8))
        if distils:
            rows = rows.select_columns(text_columns(rows.column_names))
        columns = text_columns(rows.column_names)
        stored_rows, stored = with_teacher(
            rows, columns, encoder, form=format_of(small.rows(form, 1)[0]), quiet=True
        )
        live = LiveTeacher(encoder, columns, {})
        collator = GroupDroppingCollator(preprocess_fn=encoder.preprocess)
        found = []
        for teacher, batch in ((stored, stored_rows.to_list()), (live, live.taught(rows.to_list()))):
            loss = ElasticLoss(encoder, "distillation" if distils else objective, teacher=teacher).eval()
            inputs = collator(batch)
            features = [
                {key.removeprefix(f"{name}_"): inputs[key] for key in inputs if key.startswith(f"{name}_")}
                for name in columns
            ]
            found.append(loss(features, inputs["label"]))
        assert torch.allclose(*found, rtol=1e-4)
        assert found[0] > 0

    def test_prompts_are_put_before_its_texts(self, model: str) -> None:
        from datasets import Dataset

        teacher = ElasticEncoder(model, device="cpu")
        rows, prompts = small.rows("pairs", 4), {"anchor": "query : "}
        stored = teacher_vectors(teacher, Dataset.from_list(rows), ["anchor", "positive"], prompts=prompts)
        taught = LiveTeacher(teacher, ["anchor", "positive"], prompts).taught(rows)
        found = torch.stack([row["label"] for row in taught])
        assert torch.allclose(found, stored(torch.arange(4)), atol=1e-5)
        assert list(taught[0]) == ["anchor", "positive", "label"]

    def test_the_original_stays_as_it_was(self, tmp_path: Path, model: str) -> None:
        texts = [shards(tmp_path, "texts")]
        before = small.load(Path(model))
        choices = {"learning_rate": 1e-2, "epochs": 3, "objective_options": {"match_vectors": "true"}}
        seen = []
        taught = LiveTeacher.taught

        def noting(self: LiveTeacher, rows: Any) -> Any:
            seen.append((rows[0]["text"], taught(self, rows)[0]["label"][0]))
            return taught(self, rows)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LiveTeacher, "taught", noting)
            after = small.run(tmp_path, model, data=texts, teacher="original", **STREAMED, **choices)
        text, vector = seen[-1]
        assert abs(before.encode(text) - vector.numpy()).max() < 1e-5
        assert abs(after.encode(text) - vector.numpy()).max() > 1e-2


class TestLengthAndShares:
    def options(self, **choices: Any) -> TrainingOptions:
        return TrainingOptions(streaming=True, batch_size=10, **choices)

    def test_epochs_are_counted_over_all_sources(self) -> None:
        assert batches_of_run({"a": 95, "b": 20}, self.options()) == 9 + 2
        assert batches_of_run({"a": 95, "b": None}, self.options(max_steps=4, gradient_accumulation=3)) == 12

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            (
                {"a": 5, "b": None},
                "the length of b is not known: say how many steps to train",
            ),
            ({"a": 5, "b": 4}, "9 rows fill no batch of 10: lower --batch-size"),
        ],
    )
    def test_a_length_that_cannot_be_known(self, rows: dict[str, int | None], said: str) -> None:
        with pytest.raises(UserError) as caught:
            batches_of_run(rows, self.options())
        assert said in str(caught.value)

    def test_shares(self) -> None:
        rows, unknown = {"a": 900, "b": 100}, {"a": 9, "b": None}
        assert mixture_shares({"a": None}, self.options()) == [1.0]
        assert mixture_shares(rows, self.options()) == pytest.approx([0.9, 0.1])
        assert mixture_shares(rows, self.options(mix="temperature")) == [0.75, 0.25]
        fixed = self.options(mix="fixed", mix_weights={"a": 1, "b": 3})
        assert mixture_shares(unknown, fixed) == [0.25, 0.75]
        with pytest.raises(UserError, match=r"the rows of b are not known.* --rows b=100000.* --mix fixed"):
            mixture_shares(unknown, self.options())


class TestMistakes:
    """One line, exit code 2, nothing left behind."""

    def said(self, folder: Path, model: str, capsys: pytest.CaptureFixture[str], *words: str) -> str:
        before = sorted(folder.rglob("*"))
        command = ["matryoshka2d", "train", "--model", model, "--output", str(folder / "out"), "-q"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [*command, "--device", "cpu", "--strategy", "full", *words])
            with pytest.raises(SystemExit) as stopped:
                cli.main()
        assert stopped.value.code == 2
        assert sorted(folder.rglob("*")) == before, "something was left behind"
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("--data pairs.jsonl --streaming", "the length of pairs is not known"),
            (
                "--data pairs.jsonl --streaming --max-steps 0",
                "'max_steps' is 0: expected a whole",
            ),
            (
                "--data pairs.jsonl --streaming --rows pairs=many",
                "rows of 'pairs' is 'many': expected a number",
            ),
            ("--data pairs.jsonl --streaming --rows pairs=1.5", "expected a whole number"),
            (
                "--data pairs.jsonl --streaming --rows pair=9",
                "rows names 'pair', but the data sets are pairs",
            ),
            ("--data pairs.jsonl --rows pairs=9", "rows without streaming: add --streaming"),
            ("--data pairs.jsonl --shuffle-buffer 100", "shuffle_buffer without streaming"),
            ("--data pairs.jsonl --streaming --max-steps 2 --workers 2", "workers with streaming"),
            ("--data pairs.jsonl --workers -1", "'workers' is -1: expected a whole number of at least 0"),
            ("--data pairs.jsonl --streaming --shuffle-buffer 9", "shuffle_buffer 9 holds no batch of 64"),
            ("--data pairs.jsonl --streaming --max-steps 2", "24 rows fill no batch of 64"),
            ("--data pairs.jsonl --mix fixed", "there is one data set: repeat --data"),
            ("--data pairs.jsonl --data pairs.jsonl --mix fix", "expected fixed or temperature"),
            ("--data pairs.jsonl --data pairs.jsonl --mix fixed", "there are no weights"),
            ("--data pairs.jsonl --data pairs.jsonl --mix-weights pairs=1", "mix_weights without mix fixed"),
            ("--data pairs.jsonl --data pairs.jsonl --mix-temperature 3", "without mix temperature"),
            (
                "--data pairs.jsonl --data pairs.jsonl --mix fixed --mix-weights pairs=1",
                "mix_weights has none for 'pairs_2'",
            ),
            ("--data pairs.jsonl --score-range 5", "score_range is '5': expected lowest,highest, as 0,5"),
            ("--data none-*.parquet --streaming", "no file matches none-*.parquet"),
            ("--data late.jsonl --streaming --max-steps 2 --batch-size 4", "late.jsonl, line 9: there is no"),
        ],
    )
    def test_they_are_said(
        self,
        tmp_path: Path,
        model: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        words: str,
        said: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        small.data_file(tmp_path)
        lines = [json.dumps(row) for row in small.rows("pairs", 8)]
        (tmp_path / "late.jsonl").write_text("\n".join([*lines, '{"anchor": "a"}']))
        assert said in self.said(tmp_path, model, capsys, *words.split())

    def test_a_broken_shard_is_named(
        self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = Path(shards(tmp_path, "pairs"))
        whole = (home / "1.parquet").read_bytes()
        (home / "1.parquet").write_bytes(whole[: len(whole) // 2])
        line = self.said(tmp_path, model, capsys, "--data", str(home), "--streaming", "--batch-size", "4")
        assert "1.parquet is not a readable Parquet file" in line

    def test_an_output_that_holds_the_shards_is_not_replaced(
        self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = Path(shards(tmp_path, "pairs")).rename(tmp_path / "out")
        words = ("--data", f"{home}/*.parquet", "--streaming", "--overwrite")
        assert "is in use; choose another output" in self.said(tmp_path, model, capsys, *words)
