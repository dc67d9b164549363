"""train(): every form of data, every strategy; what it writes, and what it leaves as it was."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

import matryoshka2d.training.finetuning as training_run
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.losses.elastic_loss import ElasticLoss
from matryoshka2d.losses.objectives import OBJECTIVES
from matryoshka2d.losses.strategies import STRATEGIES
from matryoshka2d.training import TrainingOptions, train
from matryoshka2d.training.model_settings import set_dropout
from tests import tiny
from tests.training import small


class CaughtError(Exception):
    """Raised by a stand-in to stop a run where it is looked at."""


def trained_something(model: str, after: ElasticEncoder) -> bool:
    before = small.load(Path(model)).state_dict()
    return any(
        not torch.equal(tensor, before[name]) for name, tensor in after.state_dict().items() if name in before
    )


class TestWhatRuns:
    """Every form of data and every strategy trains, and what is written is what is returned."""

    @pytest.mark.parametrize("tokens", [None, 30])
    def test_bf16_ends_with_the_run(self, tmp_path: Path, model: str, tokens: int | None) -> None:
        small.run(tmp_path, model, precision="bf16", mini_batch_tokens=tokens)
        assert not torch.is_autocast_enabled("cpu")

    @pytest.mark.parametrize("form", ["pairs", "texts"])
    def test_cached_gradients_train_the_same_model(self, tmp_path: Path, model: str, form: str) -> None:
        data = [small.data_file(tmp_path, form)]
        choices = {"data": data, "batch_size": 12, "learning_rate": 1e-2}
        whole = small.run(tmp_path, model, "whole", **choices)
        cached = small.run(tmp_path, model, "cached", **choices, mini_batch_tokens=30)
        before, *after = (m.exits(tiny.TEXTS)[2] for m in (small.load(Path(model)), whole, cached))
        assert np.abs(after[0] - before).max() > 0.05
        np.testing.assert_allclose(after[1], after[0], atol=1e-4)
        assert "--mini-batch-tokens 30" in (tmp_path / "cached" / "README.md").read_text()

    @pytest.mark.parametrize(
        ("form", "objective"),
        [("texts", "distillation"), ("pairs", "infonce"), ("triplets", "infonce"), ("scored", "cosent")],
    )
    def test_every_form_of_data_with_the_objective_that_suits_it(
        self, tmp_path: Path, model: str, form: str, objective: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[ElasticLoss] = []

        class Watched(ElasticLoss):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                made.append(self)

        monkeypatch.setattr(training_run, "ElasticLoss", Watched)
        found = small.run(tmp_path, model, data=[small.data_file(tmp_path, form)])
        assert trained_something(model, found)
        assert [type(loss.objective) for loss in made] == [OBJECTIVES[objective]]
        assert [loss.step for loss in made] == [small.ROWS // 4]

    def test_several_forms_at_once_have_a_loss_each(self, tmp_path: Path, model: str) -> None:
        data = [
            small.data_file(tmp_path, form, seed=i) for i, form in enumerate(("pairs", "scored", "texts"))
        ]
        assert trained_something(model, small.run(tmp_path, model, data=data))

    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("heads", [True, False])
    def test_every_strategy_with_and_without_heads(
        self, tmp_path: Path, model: str, strategy: str, heads: bool
    ) -> None:
        found = small.run(tmp_path, model, strategy=strategy, heads=heads, limit=8)
        assert trained_something(model, found)
        assert (found.heads is not None) is heads
        written = small.load(tmp_path / "out")
        for size in ("1x8", "3x16", "4x32"):
            np.testing.assert_allclose(
                written.encode(tiny.TEXTS, size=size), found.encode(tiny.TEXTS, size=size), atol=1e-6
            )

    @pytest.mark.parametrize(
        ("strategy", "expected"), [("all-sizes", True), ("2dmse", False), ("full", False)]
    )
    def test_heads_are_the_default_of_all_sizes_alone(
        self, tmp_path: Path, model: str, strategy: str, expected: bool
    ) -> None:
        assert (small.run(tmp_path, model, strategy=strategy, limit=4).heads is not None) is expected

    def test_the_result_loads_in_stock_sentence_transformers_as_its_full_size(
        self, tmp_path: Path, model: str
    ) -> None:
        found = small.run(tmp_path, model)
        stock = SentenceTransformer(str(tmp_path / "out"), device="cpu")
        np.testing.assert_allclose(stock.encode(tiny.TEXTS), found.encode(tiny.TEXTS), atol=1e-6)

    def test_a_plain_checkpoint_gets_the_pooling_that_was_asked_for(self, tmp_path: Path) -> None:
        found = small.run(tmp_path, tiny.checkpoint(tmp_path / "plain"), pooling="cls", limit=8)
        assert found[1].pooling_mode == "cls"

    def test_paths_may_be_given_as_paths(self, tmp_path: Path, model: str) -> None:
        found = train(
            model=Path(model),
            data=Path(small.data_file(tmp_path)),
            output=tmp_path / "out",
            dev=Path(small.dev_file(tmp_path)),
            batch_size=12,
            device="cpu",
            quiet=True,
        )
        assert found.record["training"]["model"] == model

    def test_options_may_come_as_one_object(self, tmp_path: Path, model: str) -> None:
        options = TrainingOptions(
            model=model, data=[small.data_file(tmp_path)], output=str(tmp_path / "out"), limit=8, device="cpu"
        )
        train(options, quiet=True)
        assert (tmp_path / "out" / "elastic.json").is_file()

    def test_the_record_holds_sizes_and_options(self, tmp_path: Path, model: str) -> None:
        small.run(tmp_path, model, strategy_options={"sizes": "1x8 2x16"}, limit=8, seed=3)
        record = json.loads((tmp_path / "out" / "elastic.json").read_text())
        assert record["sizes"] == ["1x8", "2x16", "4x32"]
        assert record["training"]["seed"] == 3
        assert [str(size) for size in small.load(tmp_path / "out").sizes] == ["1x8", "2x16", "4x32"]

    def test_nothing_is_left_beside_the_output(self, tmp_path: Path, model: str) -> None:
        small.run(tmp_path, model, checkpoints=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pairs.jsonl"]

    def test_gradient_accumulation_counts_every_batch(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn: list[int] = []
        plan = ElasticLoss.plan

        def watched(self: ElasticLoss) -> Any:
            drawn.append(self.step)
            return plan(self)

        monkeypatch.setattr(ElasticLoss, "plan", watched)
        small.run(tmp_path, model, gradient_accumulation=2)
        assert drawn == list(range(6))

    def test_it_is_pushed_to_the_hub_if_asked(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[dict[str, Any]] = []
        signature = inspect.signature(SentenceTransformer.push_to_hub)

        def push(*args: Any, **kwargs: Any) -> None:
            calls.append(signature.bind(*args, **kwargs).arguments)

        monkeypatch.setattr(ElasticEncoder, "push_to_hub", push)
        small.run(tmp_path, model, limit=4)
        assert not calls
        small.run(tmp_path, model, "pushed", limit=4, push_to_hub="someone/something")
        (call,) = calls
        assert call["repo_id"] == "someone/something"
        assert call["local_model_path"] == str(tmp_path / "pushed")
        assert (tmp_path / "pushed" / "model.safetensors").is_file()


class TestSeeds:
    """A seed fixes the result to the bit."""

    @pytest.mark.parametrize("strategy", ["all-sizes", "2dmse"])
    def test_the_same_seed_gives_the_same_weights_and_another_does_not(
        self, tmp_path: Path, model: str, strategy: str
    ) -> None:
        first, second, other = (
            small.weights(small.run(tmp_path, model, name, strategy=strategy, seed=seed))
            for name, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)


class TestWhatStays:
    """Training settings end with the training."""

    def settings(self, encoder: ElasticEncoder) -> tuple[Any, ...]:
        dropouts = tuple(m.p for m in encoder.base.modules() if isinstance(m, nn.Dropout))
        return dropouts, encoder.max_seq_length, encoder.base.config._attn_implementation

    def test_dropout_length_and_attention_are_those_of_the_model_again(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        during: list[tuple[Any, ...]] = []
        forward = ElasticEncoder.exit_vectors

        def watched(encoder: ElasticEncoder, *args: Any) -> Any:
            if encoder.training:
                during.append(self.settings(encoder))
            return forward(encoder, *args)

        monkeypatch.setattr(ElasticEncoder, "exit_vectors", watched)
        found = small.run(tmp_path, model, dropout=0.25, max_length=7)
        dropouts, length, attention = during[0]
        assert (set(dropouts), length, attention) == ({0.25}, 7, "eager")
        assert self.settings(found) == self.settings(small.load(Path(model)))

    def test_they_are_put_back_when_training_fails(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[ElasticEncoder] = []

        def fail(encoder: ElasticEncoder, *args: Any, **kwargs: Any) -> Any:
            seen.append(encoder)
            raise CaughtError

        monkeypatch.setattr(training_run, "_trainer", fail)
        with pytest.raises(CaughtError):
            small.run(tmp_path, model, dropout=0.25, max_length=7)
        assert self.settings(seen[0]) == self.settings(small.load(Path(model)))

    def test_the_saved_configuration_is_that_of_the_model(self, tmp_path: Path, model: str) -> None:
        small.run(tmp_path, model, dropout=0.25, max_length=7)
        for name in ("config.json", "sentence_bert_config.json", "tokenizer_config.json"):
            before, after = (json.loads((Path(f) / name).read_text()) for f in (model, tmp_path / "out"))
            assert before == after

    @pytest.mark.parametrize("model_type", ["bert", "modernbert", "distilbert", "mpnet", "deberta-v2"])
    def test_every_dropout_is_set_those_that_attention_reads_included(
        self, tmp_path: Path, model_type: str
    ) -> None:
        encoder = ElasticEncoder(tiny.sentence_model(tmp_path, model_type), device="cpu").train()
        features = encoder.preprocess(tiny.TEXTS)
        set_dropout(encoder.base, 0.5)
        loud = [encoder.exit_vectors(features, [4])[4] for _ in range(2)]
        assert not torch.allclose(*loud)
        set_dropout(encoder.base, 0.0)
        silent = [encoder.exit_vectors(features, [4])[4] for _ in range(2)]
        torch.testing.assert_close(*silent)


class TestBatches:
    """No data set is left out, whatever its size."""

    def steps(self, folder: Path) -> int:
        card = (folder / "README.md").read_text()
        return int(card.split(" steps).")[0].rsplit("(", 1)[1])

    def test_the_last_small_batch_is_dropped(self, tmp_path: Path, model: str) -> None:
        small.run(tmp_path, model, data=[small.data_file(tmp_path, count=11)])
        assert self.steps(tmp_path / "out") == 2

    def test_fewer_rows_than_a_batch_are_one_batch(self, tmp_path: Path, model: str) -> None:
        small.run(tmp_path, model, data=[small.data_file(tmp_path, count=3)])
        assert self.steps(tmp_path / "out") == 1

    def test_a_data_set_smaller_than_a_batch_is_trained_beside_a_larger_one(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: set[str] = set()
        forward = ElasticLoss.forward

        def watched(self: ElasticLoss, features: Any, labels: Any = None) -> Any:
            seen.add(type(self.objective).__name__)
            return forward(self, features, labels)

        monkeypatch.setattr(ElasticLoss, "forward", watched)
        data = [small.data_file(tmp_path), small.data_file(tmp_path, "scored", count=3)]
        small.run(tmp_path, model, data=data)
        assert seen == {"InfoNCE", "CoSENT"}

    def test_rows_that_all_share_a_text_are_trained_too(self, tmp_path: Path, model: str) -> None:
        path = tmp_path / "same.jsonl"
        rows = [{**row, "anchor": "a cat"} for row in small.rows("pairs", 6)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        small.run(tmp_path, model, data=[str(path)])
        assert self.steps(tmp_path / "out") == 6


class TestMistakes:
    """Each is one line, said before any model is loaded where that is possible; nothing is written."""

    def refused(self, folder: Path, model: str, *words: str, **choices: Any) -> None:
        before = sorted(path.name for path in folder.iterdir())
        data = choices.pop("data", None) or [small.data_file(folder)]
        with pytest.raises(UserError) as raised:
            small.run(folder, model, data=data, **choices)
        message = str(raised.value)
        assert "\n" not in message
        assert all(word in message for word in words), message
        assert {path.name for path in folder.iterdir()} - set(before) <= {"pairs.jsonl"}

    @pytest.fixture
    def no_model_is_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def load(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("a model was loaded")

        monkeypatch.setattr(training_run, "ElasticEncoder", load)

    @pytest.mark.usefixtures("no_model_is_loaded")
    @pytest.mark.parametrize(
        ("choices", "words"),
        [
            ({"strategy": "2dsme"}, ["Did you mean '2dmse'?"]),
            ({"strategy_options": {"dim": "8"}}, ["no option 'dim'"]),
            ({"objective": "infonec"}, ["Did you mean 'infonce'?"]),
            (
                {"objective": "infonce", "objective_options": {"scale": "-1"}},
                ["'scale'", "is '-1'"],
            ),
            ({"data": ["nothing.jsonl"]}, ["nothing.jsonl"]),
            ({"columns": {"anchor": "q"}}, ["no column 'q'"]),
            ({"precision": "bf61"}, ["bf61", "Did you mean 'bf16'?"]),
        ],
    )
    def test_wrong_names_and_files(
        self, tmp_path: Path, model: str, choices: dict[str, Any], words: list[str]
    ) -> None:
        self.refused(tmp_path, model, *words, **choices)

    @pytest.mark.usefixtures("no_model_is_loaded")
    def test_an_output_that_exists(self, tmp_path: Path, model: str) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").write_text("kept")
        self.refused(tmp_path, model, "exists already", "--overwrite")
        assert (tmp_path / "out" / "precious").read_text() == "kept"

    def test_an_output_is_replaced_if_asked(self, tmp_path: Path, model: str) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").touch()
        small.run(tmp_path, model, overwrite=True, limit=4)
        assert not (tmp_path / "out" / "old").exists()
        assert small.load(tmp_path / "out").depth == tiny.LAYERS

    def test_no_data_or_no_output(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no training data"):
            train(output=str(tmp_path / "out"))
        with pytest.raises(UserError, match="no output"):
            train(data=["x.jsonl"])

    def test_an_objective_that_the_data_does_not_fit(self, tmp_path: Path, model: str) -> None:
        self.refused(tmp_path, model, "cosent", "2 text columns", objective="cosent")

    def test_a_strategy_without_inner_exits_for_queries_to_stop_at(self, tmp_path: Path, model: str) -> None:
        self.refused(tmp_path, model, "cross_exit", "'mrl' trains no inner", strategy="mrl", cross_exit=1.0)

    def test_sizes_that_the_model_lacks_are_said_before_the_teacher_is_asked(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(training_run, "with_teacher", lambda *_, **__: pytest.fail("teacher was asked"))
        data = [small.data_file(tmp_path, "texts")]
        (tmp_path / "pairs.jsonl").touch()
        options = {"sizes": "9x8"}
        with pytest.raises(UserError, match="9x8 is too deep: the model has 4 layers"):
            small.run(tmp_path, model, data=data, strategy_options=options)

    @pytest.mark.parametrize(
        "error",
        [torch.OutOfMemoryError("no room"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    )
    @pytest.mark.parametrize(
        ("choices", "flags"),
        [
            ({}, ["--mini-batch-tokens 1024", "--batch-size", "--max-length"]),
            ({"mini_batch_tokens": 512}, ["--mini-batch-tokens to 256", "--max-length"]),
            ({"mini_batch_tokens": 100}, ["--batch-size", "--max-length"]),
        ],
    )
    def test_running_out_of_memory_names_the_flag_that_lowers_it(
        self,
        tmp_path: Path,
        model: str,
        monkeypatch: pytest.MonkeyPatch,
        error: RuntimeError,
        choices: dict[str, Any],
        flags: list[str],
    ) -> None:
        def run_out(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(ElasticEncoder, "exit_vectors", run_out)
        self.refused(tmp_path, model, "out of memory with ", *flags, **choices)

    def test_another_error_of_the_machine_is_not_taken_for_it(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("a defect")

        monkeypatch.setattr(ElasticEncoder, "exit_vectors", fail)
        with pytest.raises(RuntimeError, match="a defect"):
            small.run(tmp_path, model)

    def test_options_given_twice(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="seed"):
            train(TrainingOptions(data=["x.jsonl"], output=str(tmp_path / "out")), seed=3)
