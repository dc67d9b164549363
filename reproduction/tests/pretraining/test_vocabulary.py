"""The head that predicts masked tokens is transformers' own, and new where a checkpoint has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reproduction.tests.pretraining import small
from tests import tiny
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from matryoshka2d import ElasticEncoder
from matryoshka2d.encoder.architectures import ARCHITECTURES
from matryoshka2d.errors import UserError
from matryoshka2d_reproduction.pretraining.vocabulary import check_predicts_masked, load_head

MASKED = [name for name in ARCHITECTURES if name in MODEL_FOR_MASKED_LM_MAPPING_NAMES]


def masked_checkpoint(folder: Path, model_type: str) -> str:
    """Write a tiny checkpoint with a head for masked tokens; return its folder."""
    base = tiny.checkpoint(folder / "base", model_type)
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(base))
    model.save_pretrained(folder / "masked")
    tiny.tokenizer().save_pretrained(folder / "masked")
    return str(folder / "masked")


def test_every_encoder_of_the_table_has_such_a_head() -> None:
    assert {name for name, row in ARCHITECTURES.items() if not row.causal} == set(MASKED)


@pytest.mark.parametrize("model_type", MASKED)
def test_the_loss_at_the_last_exit_is_that_of_transformers_own_model(tmp_path: Path, model_type: str) -> None:
    folder = masked_checkpoint(tmp_path, model_type)
    objective = small.objective(folder, "2x8 4x32", pooling="mean")
    made = small.batch(objective.encoder)
    whole = AutoModelForMaskedLM.from_pretrained(folder).eval()
    given = {k: v for k, v in made["features"].items() if k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = whole(**given, labels=made["labels"]).loss
        states = objective.encoder.token_states(made["features"], [2, 4])
        found = objective.mlm(states, made["labels"])[1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    loss = objective.train()(**made)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    layers = objective.encoder.base.get_submodule(ARCHITECTURES[model_type].layers)
    assert all(any(p.grad is not None for p in layer.parameters()) for layer in layers)


def test_the_embedding_table_is_one_for_encoder_and_head(tmp_path: Path) -> None:
    encoder = ElasticEncoder(masked_checkpoint(tmp_path, "bert"), pooling="mean", device="cpu")
    head, found = load_head(str(tmp_path / "masked"), encoder)
    assert found
    table = encoder.base.embeddings.word_embeddings.weight
    assert head.model.get_output_embeddings().weight is table
    assert all("layer" not in name for name, _ in head.named_parameters())


def test_a_checkpoint_without_a_head_gets_a_new_one_over_its_own_embeddings(model: str) -> None:
    encoder = ElasticEncoder(model, device="cpu")
    torch.manual_seed(0)
    head, found = load_head(model, encoder)
    assert not found
    assert head.model.get_output_embeddings().weight is encoder.base.embeddings.word_embeddings.weight


@pytest.mark.parametrize(
    ("model_type", "said"), [("qwen3", "is a decoder.*choose an encoder"), ("gemma3_text", "is a decoder")]
)
def test_a_decoder_is_refused(tmp_path: Path, model_type: str, said: str) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path, model_type), device="cpu")
    with pytest.raises(UserError, match=said):
        check_predicts_masked(encoder, "this")


def test_a_tokenizer_without_a_mask_token_is_refused(model: str) -> None:
    encoder = ElasticEncoder(model, device="cpu")
    encoder.tokenizer.mask_token = None
    with pytest.raises(UserError, match="tokenizer of this has no mask token"):
        check_predicts_masked(encoder, "this")
