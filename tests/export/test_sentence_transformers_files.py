"""The folder holds what releases before 6 and servers read: older names, older settings, nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from matryoshka2d.encoder.architectures import ARCHITECTURES
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.export.sentence_transformers_files import older_releases, write_sentence_transformers
from tests import tiny


def written(encoder: ElasticEncoder, folder: Path, size: str = "2x16", **choices: Any) -> Path:
    folder.mkdir()
    write_sentence_transformers(encoder, size, folder, **choices)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_names_and_settings_are_the_older_ones(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path, pooling="cls", dense=True), device="cpu")
    folder = written(encoder, tmp_path / "out")
    assert [module["type"] for module in read(folder / "modules.json")] == [
        f"sentence_transformers.models.{name}"
        for name in ("Transformer", "Pooling", "Dense", "Dense", "Normalize")
    ]
    assert read(folder / "sentence_bert_config.json") == {"max_seq_length": 64, "do_lower_case": False}
    pooling = read(folder / "1_Pooling" / "config.json")
    assert pooling["word_embedding_dimension"] == 32
    assert [name for name, on in pooling.items() if on is True] == [
        "pooling_mode_cls_token",
        "include_prompt",
    ]
    assert sorted(read(folder / "2_Dense" / "config.json")) == [
        "activation_function",
        "bias",
        "in_features",
        "out_features",
    ]
    names = read(folder / "tokenizer_config.json")
    assert not set(names) & {"backend", "is_local", "max_length"}
    assert names["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "modernbert"])
@pytest.mark.parametrize("lower", [False, True])
def test_this_release_reads_it_too(tmp_path: Path, model_type: str, lower: bool) -> None:
    source = tiny.sentence_model(tmp_path, model_type)
    settings = {"max_seq_length": 64, "do_lower_case": lower}
    (Path(source) / "sentence_bert_config.json").write_text(json.dumps(settings))
    encoder = ElasticEncoder(source, device="cpu")
    folder = written(encoder, tmp_path / "out")
    again = SentenceTransformer(str(folder), device="cpu")
    assert again.max_seq_length == 64
    texts = [*tiny.TEXTS, "a cat " * 90, "A CAT"]
    expected = encoder.encode(texts, size="2x16")
    np.testing.assert_allclose(again.encode(texts), expected, atol=1e-5)
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert (raw.encode("A CAT").ids == raw.encode("a cat").ids) == lower


def test_several_poolings_at_once(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path, pooling=("cls", "mean")), device="cpu")  # type: ignore[arg-type]
    folder = written(encoder, tmp_path / "out", size="2x40")
    again = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(again.encode(tiny.TEXTS), encoder.encode(tiny.TEXTS, size="2x40"), atol=1e-5)


def test_the_tokenizer_asks_only_for_what_the_model_takes(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path, "distilbert"), device="cpu")
    names = read(written(encoder, tmp_path / "out") / "tokenizer_config.json")["model_input_names"]
    assert names == ["input_ids", "attention_mask"]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision(tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    folder = written(encoder, tmp_path / "out", precision=precision)
    full = written(encoder, tmp_path / "full")
    weights = [(path / "model.safetensors").stat().st_size for path in (folder, full)]
    assert weights[0] < 0.6 * weights[1]
    assert SentenceTransformer(str(folder), device="cpu").dtype == dtype
    assert encoder.dtype == torch.float32


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture_says_which_releases_read_it(tmp_path: Path, model_type: str) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path, model_type), device="cpu")
    oldest = older_releases(encoder)["reads with"]
    assert oldest["transformers"] == ARCHITECTURES[model_type].transformers
    assert oldest["sentence-transformers"] == ("3.0" if oldest["transformers"] < "5" else "5.2")


def test_a_first_token_after_a_prompt_needs_this_release(tmp_path: Path) -> None:
    folder = tiny.sentence_model(tmp_path, pooling="cls", include_prompt=False)
    encoder = ElasticEncoder(folder, device="cpu")
    assert older_releases(encoder)["reads with"]["sentence-transformers"] == "6.0"
