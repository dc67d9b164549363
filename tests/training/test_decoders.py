"""Decoders: last-token pooling beside padding, prompts, gradient checkpointing, what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

import matryoshka2d.training.finetuning as training_run
from matryoshka2d.data import POSITIVE_PAIRS, SCORED_PAIRS, TEXTS, TRIPLETS
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.losses.elastic_loss import ElasticLoss
from matryoshka2d.training.model_settings import training_settings
from matryoshka2d.training.teacher import teacher_vectors
from matryoshka2d.training.texts import column_prompts
from tests import tiny
from tests.training import small

DECODERS = ["qwen3", "gemma3_text"]


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_text_has_the_vector_that_it_has_alone_on_whichever_side_it_is_padded(
    tmp_path: Path, kind: str, side: str, pooling: str
) -> None:
    encoder = ElasticEncoder(tiny.checkpoint(tmp_path, kind, side), pooling=pooling, device="cpu")
    together = encoder.exits(tiny.TEXTS, batch_size=len(tiny.TEXTS))
    for row, text in enumerate(tiny.TEXTS):
        ids = encoder.preprocess([text])["input_ids"]
        with torch.no_grad():
            for n in range(1, encoder.depth + 1):
                states = encoder.truncate(f"{n}x{tiny.WIDTH}")[0].model(input_ids=ids).last_hidden_state[0]
                alone = states[-1] if pooling == "last" else states.mean(dim=0)
                expected = torch.nn.functional.normalize(alone, dim=-1).numpy()
                np.testing.assert_allclose(together[n][row], expected, atol=2e-5)


def test_a_gemma_whose_attention_goes_both_ways_is_no_decoder(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path, "gemma3_text", use_bidirectional_attention=True)
    encoder = ElasticEncoder(folder, pooling="cls", device="cpu")
    first = encoder.encode(["a cat", "a dog runs fast"])
    assert np.abs(first[0] - first[1]).max() > 1e-3


class TestPrompts:
    """Anchors are queries and all else is documents; the teacher reads what the student reads."""

    class Model:
        prompts = {"query": "q: ", "document": "d: ", "sts": "s: "}  # noqa: RUF012
        default_prompt_name = "sts"

    def test_by_the_form_of_the_data(self) -> None:
        columns = ["anchor", "positive", "negative"]
        expected = {"anchor": "q: ", "positive": "d: ", "negative": "d: "}
        assert column_prompts(self.Model(), TRIPLETS, columns) == expected
        both = {"sentence1": "s: ", "sentence2": "s: "}
        assert column_prompts(self.Model(), SCORED_PAIRS, list(both)) == both
        assert column_prompts(self.Model(), TEXTS, ["text"]) == {"text": "s: "}
        assert column_prompts(object(), POSITIVE_PAIRS, columns[:2]) == {}

    @pytest.mark.parametrize("several", [False, True])
    def test_the_loss_sees_them_and_the_model_keeps_them(
        self, tmp_path: Path, model: str, several: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[list[list[int]]] = []

        class Watched(ElasticLoss):
            def forward(self, sentence_features: Any, labels: Any = None) -> Any:
                features = list(sentence_features)
                if labels is None:
                    seen.append([column["input_ids"][:, 1:3].tolist() for column in features])
                return super().forward(features, labels)

        monkeypatch.setattr(training_run, "ElasticLoss", Watched)
        data = [small.data_file(tmp_path, "pairs")]
        data += [small.data_file(tmp_path, "scored")] if several else []
        found = small.run(
            tmp_path, model, data=data, strategy="full", query_prompt="query : ", document_prompt="passage : "
        )
        words = found.tokenizer.convert_tokens_to_ids
        assert seen
        for queries, documents in seen:
            assert queries == [words(["query", ":"])] * len(queries)
            assert documents == [words(["passage", ":"])] * len(documents)
        written = small.load(tmp_path / "out")
        assert (written.prompts["query"], written.prompts["document"]) == ("query : ", "passage : ")

    def test_a_teacher_reads_a_text_under_the_prompt_of_its_column(self, tmp_path: Path) -> None:
        teacher = ElasticEncoder(tiny.sentence_model(tmp_path / "teacher"), device="cpu")
        rows = Dataset.from_dict({"anchor": ["a cat", "red house"], "positive": ["a cat", "the dog"]})
        prompts = {"anchor": "query : "}
        lookup = teacher_vectors(teacher, rows, ["anchor", "positive"], prompts=prompts, cache=tmp_path)
        found = lookup(torch.tensor([0, 1])).numpy()
        np.testing.assert_allclose(
            found[:, 0], teacher.encode(rows["anchor"][:], prompt="query : "), atol=1e-6
        )
        np.testing.assert_allclose(found[:, 1], teacher.encode(rows["positive"][:]), atol=1e-6)
        plain = teacher_vectors(teacher, rows, ["anchor", "positive"], cache=tmp_path)
        assert np.abs(plain(torch.tensor([0])).numpy() - found[:1]).max() > 1e-3


@pytest.mark.parametrize("kind", [*DECODERS, "bert", "modernbert"])
def test_checkpointing_runs_each_layer_twice_and_gives_the_same_gradients(tmp_path: Path, kind: str) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path, kind), device="cpu").train()
    columns = [encoder.preprocess(tiny.TEXTS), encoder.preprocess(tiny.TEXTS[::-1])]
    layer = next(
        module
        for name, module in encoder.base.named_modules()
        if name.endswith(("mlp", "intermediate")) and list(module.parameters())
    )
    ran: list[int] = []
    layer.register_forward_pre_hook(lambda *_: ran.append(1))
    gradients, runs = [], []
    for checkpointing in (False, True, False):
        encoder.zero_grad()
        ran.clear()
        with training_settings(encoder, 64, True, dropout=0.0, checkpointing=checkpointing):
            ElasticLoss(encoder, strategy="all-sizes")(columns).backward()
        gradients.append(
            {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
        )
        runs.append(len(ran))
    assert runs == [1, 2, 1]
    assert any(gradient.abs().max() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


class TestWhatADecoderCannotDo:
    """One line that says why, and what to choose instead."""

    def refused(self, folder: Path, said: str, **choices: Any) -> None:
        base = tiny.checkpoint(folder / "base", choices.pop("kind", "qwen3"), "left")
        with pytest.raises(UserError, match=said) as raised:
            small.run(folder, base, **choices)
        assert "\n" not in str(raised.value)
        assert {path.name for path in folder.iterdir()} == {"base", "pairs.jsonl"}

    def test_pool_its_first_token(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "sees nothing of the text that follows: choose last or mean", pooling="cls")

    def test_train_the_embedding_output_of_a_last_token(self, tmp_path: Path) -> None:
        self.refused(
            tmp_path, "strategy 'matryoshka2d' .*read nothing", strategy="matryoshka2d", pooling="last"
        )

    def test_forget_activations_where_the_architecture_cannot(self, tmp_path: Path) -> None:
        said = "'mpnet' have no gradient checkpointing"
        self.refused(tmp_path, said, kind="mpnet", pooling="mean", gradient_checkpointing=True)


def test_a_run_in_half_precision_returns_what_it_wrote(tmp_path: Path, model: str) -> None:
    found = small.run(tmp_path, model, precision="bf16", strategy="full")
    written = small.load(tmp_path / "out")
    np.testing.assert_array_equal(found.encode(tiny.TEXTS), written.encode(tiny.TEXTS))
