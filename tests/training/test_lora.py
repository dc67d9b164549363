"""LoRA: only adapters and heads move, merging changes nothing, and plain weights are what is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

import matryoshka2d.training.finetuning as training_run
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.export.exporter import export_model
from matryoshka2d.inference import open_engine
from matryoshka2d.size import Size
from matryoshka2d.training.lora import Lora, add_adapters, make_lora, merge_adapters, target_layers
from matryoshka2d.training.training_options import TrainingOptions
from tests import tiny
from tests.training import small
from tests.training.test_resume import killed

DECODERS = [("qwen3", "left", "last"), ("gemma3_text", "right", "mean")]


def decoder(folder: Path, kind: str = "qwen3", side: str = "left", **config: Any) -> str:
    return tiny.checkpoint(folder / "decoder", kind, side, **config)


@pytest.mark.parametrize(("kind", "side", "pooling"), DECODERS)
def test_a_decoder_trains_merges_cuts_exports_and_loads_in_stock(
    tmp_path: Path, kind: str, side: str, pooling: str
) -> None:
    found = small.run(
        tmp_path,
        decoder(tmp_path, kind, side),
        data=[small.data_file(tmp_path, "triplets")],
        pooling=pooling,
        teacher="tuned",
        lora=True,
        lora_options={"rank": 4},
        gradient_checkpointing=True,
        query_prompt="query : ",
        document_prompt="passage : ",
        learning_rate=1e-2,
    )
    before = ElasticEncoder(decoder(tmp_path, kind, side), pooling=pooling, device="cpu")
    assert set(before.state_dict()) == {name for name in found.state_dict() if "exit_heads" not in name}
    assert np.abs(found.encode(tiny.TEXTS) - before.encode(tiny.TEXTS)).max() > 1e-2
    assert not any("lora" in name for name in load_file(tmp_path / "out" / "model.safetensors"))

    stock = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(stock.encode(tiny.TEXTS), found.encode(tiny.TEXTS), atol=1e-5)
    assert (stock.prompts["query"], stock.prompts["document"]) == ("query : ", "passage : ")
    np.testing.assert_allclose(stock.encode_query(tiny.TEXTS), found.encode_query(tiny.TEXTS), atol=1e-5)

    small_size = found.encode_query(tiny.TEXTS, size="2x16")
    found.truncate("2x16").save(str(tmp_path / "cut"))
    cut = SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    assert len(cut[0].model.layers) == 2
    np.testing.assert_allclose(cut.encode_query(tiny.TEXTS), small_size, atol=1e-5)

    # A graph takes ten seconds to write: one kind of decoder is enough.
    for form in ("sentence-transformers", *(["onnx"] if kind == "qwen3" else [])):
        export = export_model(tmp_path / "out", tmp_path / form, size="2x16", format=form, device="cpu")
        assert export.agreements[Size(2, 16)].difference < 1e-5
    vectors = open_engine(str(tmp_path / "out"), "torch", "fp32", "cpu").embed(
        tiny.TEXTS, "2x16", prompt_name="query"
    )
    np.testing.assert_allclose(vectors, small_size, atol=1e-5)


def test_nothing_but_adapters_and_heads_is_trained(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: set[str] = set()

    class Looks(training_run.ElasticTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            trained.update(name for name, one in self.model.named_parameters() if one.requires_grad)

    monkeypatch.setattr(training_run, "ElasticTrainer", Looks)
    before = small.weights(small.load(Path(model)))
    after = small.weights(small.run(tmp_path, model, lora=True, lora_options={"targets": "query,value"}))
    assert {name.split(".")[-3] for name in trained if "lora" in name} == {"lora_A", "lora_B"}
    assert all("lora_" in name or "exit_heads" in name for name in trained)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = range(tiny.LAYERS)
    assert changed == {
        f"0.model.encoder.layer.{n}.attention.self.{name}.weight"
        for n in layers
        for name in ("query", "value")
    }


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "mpnet", "qwen3"])
def test_adapters_change_nothing_at_first_and_merging_changes_nothing_at_last(
    tmp_path: Path, kind: str
) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path, kind), device="cpu").eval()
    plain = encoder.exits(tiny.TEXTS)
    add_adapters(encoder, Lora(rank=3))
    for n, vectors in encoder.exits(tiny.TEXTS).items():
        np.testing.assert_array_equal(vectors, plain[n])
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    adapted = encoder.exits(tiny.TEXTS)
    merge_adapters(encoder)
    for n, vectors in encoder.exits(tiny.TEXTS).items():
        np.testing.assert_allclose(vectors, adapted[n], atol=1e-5)
        assert np.abs(vectors - plain[n]).max() > 1e-2
    assert not any("lora" in type(module).__module__ for module in encoder.modules())
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_weights_that_are_not_finite_are_not_merged(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    add_adapters(encoder, Lora())
    with torch.no_grad():
        next(p for name, p in encoder.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(UserError, match=r"not finite: .*--learning-rate"):
        merge_adapters(encoder)


@pytest.mark.parametrize("choices", [{"dev": True}, {"lora_options": {"dropout": 0.2}}], ids=str)
def test_a_killed_run_goes_on_from_checkpoints_that_hold_the_adapters_alone(
    tmp_path: Path, model: str, choices: dict[str, Any]
) -> None:
    options = {"lora": True, "checkpoints": True, "epochs": 2, "seed": 5, "strategy": "2dmse", **choices}
    if options.pop("dev", False):
        options["dev"] = small.dev_file(tmp_path)
    whole = small.weights(small.run(tmp_path, model, "whole", **options))
    killed(tmp_path, model, "broken", 8, **options)
    (held,) = (tmp_path / "broken.checkpoints" / "checkpoint-6").glob("*trained*")
    assert all("lora_" in name for name in load_file(held))
    found = small.weights(small.run(tmp_path, model, "broken", resume=True, **options))
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_checkpoint_of_other_adapters_is_said_in_one_line(tmp_path: Path, model: str) -> None:
    options = {"lora": True, "checkpoints": True, "epochs": 2, "strategy": "full"}
    killed(tmp_path, model, "broken", 8, **options)
    with pytest.raises(UserError, match="of other adapters") as raised:
        small.run(tmp_path, model, "broken", resume=True, lora_options={"targets": "query"}, **options)
    assert "\n" not in str(raised.value)


class TestHalfPrecision:
    """What is trained is in float32 whatever the model came in; what is saved is what it came in."""

    @pytest.fixture
    def half(self, tmp_path: Path) -> str:
        encoder = ElasticEncoder(decoder(tmp_path), pooling="last", device="cpu").bfloat16()
        encoder.save(str(tmp_path / "half"), create_model_card=False)
        return str(tmp_path / "half")

    @pytest.mark.parametrize(
        ("lora", "precision", "frozen"),
        [(False, "bf16", None), (True, "bf16", torch.bfloat16), (True, "fp32", torch.float32)],
    )
    def test_of_the_model(
        self,
        tmp_path: Path,
        half: str,
        lora: bool,
        precision: str,
        frozen: torch.dtype | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        trained: set[torch.dtype] = set()
        others: set[torch.dtype] = set()

        class Looks(training_run.ElasticTrainer):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                for parameter in self.model.parameters():
                    (trained if parameter.requires_grad else others).add(parameter.dtype)

        monkeypatch.setattr(training_run, "ElasticTrainer", Looks)
        found = small.run(
            tmp_path, half, lora=lora, precision=precision, dev=small.dev_file(tmp_path), checkpoints=True
        )
        assert trained == {torch.float32}
        assert others == ({frozen} if frozen else set())
        assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}
        assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
        written = small.load(tmp_path / "out")
        np.testing.assert_array_equal(
            written.encode(tiny.TEXTS, size="2x8"), found.encode(tiny.TEXTS, size="2x8")
        )


class TestMistakes:
    """One line each, before a model is loaded where that can be."""

    def test_no_peft(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("matryoshka2d.errors.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"this needs peft: pip install 'matryoshka2d\[lora\]'"):
            make_lora({})

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"r": "8"}, "no option 'r': expected one of rank, alpha, dropout, targets"),
            ({"rank": "many"}, "expected a whole number"),
            ({"rank": "0"}, "rank is 0"),
            ({"dropout": "1"}, "dropout is 1.0"),
        ],
    )
    def test_options(self, options: dict[str, str], said: str) -> None:
        with pytest.raises(UserError, match=said) as raised:
            make_lora(options)
        assert "\n" not in str(raised.value)

    def test_options_without_lora(self, tmp_path: Path, model: str) -> None:
        with pytest.raises(UserError, match="lora_options without lora"):
            small.run(tmp_path, model, lora_options={"rank": "8"})

    def test_targets_that_are_not_there(self, tmp_path: Path, model: str) -> None:
        choices: dict[str, Any] = {"lora": True, "lora_options": {"targets": "q_prj"}}
        with pytest.raises(UserError, match=r"no linear layer 'q_prj' for LoRA: expected some of dense, key"):
            small.run(tmp_path, model, **choices)
        choices["lora_options"] = {"targets": "qeury"}
        with pytest.raises(UserError, match="Did you mean 'query'"):
            small.run(tmp_path, model, **choices)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.jsonl"]

    def test_targets_may_be_named_by_any_ending(self, tmp_path: Path) -> None:
        base = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu").base
        assert len(target_layers(base, ("output.dense",))) == 2 * tiny.LAYERS
        assert len(target_layers(base, ("attention.output.dense",))) == tiny.LAYERS
        assert len(target_layers(base, ())) == 6 * tiny.LAYERS


def test_adapters_have_a_rate_of_their_own() -> None:
    from matryoshka2d.training.model_settings import rates
    from matryoshka2d.training.training_options import LORA_RATE

    assert rates(TrainingOptions(lora=True)) == (LORA_RATE, LORA_RATE)
    assert rates(TrainingOptions(lora=True, learning_rate=1e-3, top_learning_rate=1e-4)) == (1e-3, 1e-4)
