"""The elastic encoder: one function at a size, however it is asked for."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from matryoshka2d.encoder.elastic import ElasticEncoder, cut
from matryoshka2d.errors import UserError
from matryoshka2d.size import Size
from tests import tiny

TEXTS = [
    "A man is playing a guitar.",
    "Someone plays an instrument on a stage in front of a large crowd of people.",
    "x",
    "The stock market fell sharply on Monday.",
]


@pytest.fixture(scope="module")
def encoder(minilm: str) -> ElasticEncoder:
    return ElasticEncoder(minilm, device="cpu")


@pytest.fixture(scope="module")
def exits(encoder: ElasticEncoder) -> dict[int, np.ndarray]:
    return encoder.exits(TEXTS)


def prefix(rows: np.ndarray, dims: int) -> np.ndarray:
    return rows[:, :dims] / np.linalg.norm(rows[:, :dims], axis=1, keepdims=True)


def test_without_a_size_it_is_the_plain_model(encoder: ElasticEncoder, minilm: str) -> None:
    stock = SentenceTransformer(minilm, device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS), stock.encode(TEXTS), atol=1e-6)
    assert encoder.get_embedding_dimension() == 384
    assert str(encoder.size) == "6x384"


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=st.integers(1, 6), dims=st.integers(1, 384))
def test_every_way_to_a_size_gives_the_same_unit_vectors(
    encoder: ElasticEncoder, exits: dict[int, np.ndarray], layers: int, dims: int
) -> None:
    size = f"{layers}x{dims}"
    vectors = encoder.encode(TEXTS, size=size)
    np.testing.assert_allclose(vectors, prefix(exits[layers], dims), atol=1e-5)
    np.testing.assert_allclose(vectors, encoder.truncate(size).encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_exits_are_right_before_and_after_shallow_encodes_in_both_orders(minilm: str) -> None:
    for first in ("exits", "shallow"):
        fresh = ElasticEncoder(minilm, device="cpu")
        shallow = fresh.encode(TEXTS, size="2x64") if first == "shallow" else None
        found = fresh.exits(TEXTS)
        shallow = fresh.encode(TEXTS, size="2x64") if shallow is None else shallow
        again = fresh.exits(TEXTS)
        assert sorted(found) == sorted(again) == [1, 2, 3, 4, 5, 6]
        for layers in found:
            np.testing.assert_array_equal(found[layers], again[layers])
        np.testing.assert_allclose(shallow, prefix(found[2], 64), atol=1e-6)


def test_exits_are_right_after_transformers_own_hidden_states(minilm: str) -> None:
    fresh = ElasticEncoder(minilm, device="cpu")
    features = fresh.preprocess(TEXTS)
    inputs = {k: v for k, v in features.items() if isinstance(v, torch.Tensor)}
    with torch.no_grad():
        states = fresh.base(**inputs, output_hidden_states=True).hidden_states
        noted = fresh.exit_vectors(features, range(7))
        again = fresh.base(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == len(again) == 7
    mask = inputs["attention_mask"].unsqueeze(-1)
    for layers, state in enumerate(states):
        torch.testing.assert_close(noted[layers], (state * mask).sum(1) / mask.sum(1), atol=1e-5, rtol=0)


def test_threads_may_ask_for_different_sizes_at_once(
    encoder: ElasticEncoder, exits: dict[int, np.ndarray]
) -> None:
    start = threading.Barrier(6)

    def ask(layers: int) -> list[np.ndarray]:
        start.wait()
        return [
            encoder.encode(TEXTS, size=Size(layers, 32)) if i % 2 else encoder.exits(TEXTS)[layers]
            for i in range(4)
        ]

    with ThreadPoolExecutor(6) as pool:
        for layers, found in enumerate(pool.map(ask, range(1, 7)), start=1):
            for i, vectors in enumerate(found):
                expected = prefix(exits[layers], 32) if i % 2 else exits[layers]
                np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_the_tokenizer_that_threads_share_keeps_its_settings(
    encoder: ElasticEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two calls of one thread, another thread must find padding and truncation as it left them."""
    encoder.encode(TEXTS)
    backend = encoder.tokenizer.backend_tokenizer
    before = (backend.padding, backend.truncation)
    seen = []
    preprocess = ElasticEncoder.preprocess

    def spy(self: ElasticEncoder, *args: Any, **kwargs: Any) -> dict[str, Any]:
        seen.append((backend.padding, backend.truncation))
        return preprocess(self, *args, **kwargs)

    monkeypatch.setattr(ElasticEncoder, "preprocess", spy)
    encoder.exits(TEXTS)
    assert seen == [before]


def test_only_the_layers_of_the_size_run(encoder: ElasticEncoder) -> None:
    ran: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_, n=n: ran.append(n))
        for n, layer in enumerate(encoder.base.encoder.layer, start=1)
    ]
    encoder.encode(TEXTS, size="2x32", batch_size=len(TEXTS))
    for hook in hooks:
        hook.remove()
    assert ran == [1, 2]


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "weightedmean"])
def test_prompts_left_out_of_pooling_stay_out_at_every_exit(
    tmp_path: Path, pooling: str, padding_side: str
) -> None:
    prompts = {"query": "query : ", "document": "passage : "}
    folder = tiny.sentence_model(
        tmp_path, pooling=pooling, padding_side=padding_side, include_prompt=False, prompts=prompts
    )
    encoder = ElasticEncoder(folder, device="cpu")
    exits = encoder.exits(tiny.TEXTS, prompt_name="query")
    for layers in range(1, tiny.LAYERS + 1):
        size = f"{layers}x16"
        vectors = encoder.encode_query(tiny.TEXTS, size=size)
        np.testing.assert_allclose(vectors, encoder.truncate(size).encode_query(tiny.TEXTS), atol=1e-5)
        np.testing.assert_allclose(vectors, prefix(exits[layers], 16), atol=1e-5)
    # A pooling that did count the prompt would give something else.
    encoder.set_pooling_include_prompt(True)
    counted = encoder.encode_query(tiny.TEXTS, size="2x16")
    if pooling in ("mean", "weightedmean"):
        assert np.abs(counted - encoder_without(folder, "2x16")).max() > 1e-3
    asked = encoder.encode_document(tiny.TEXTS, size="2x16")
    assert np.abs(asked - counted).max() > 1e-3


def encoder_without(folder: str, size: str) -> np.ndarray:
    return ElasticEncoder(folder, device="cpu").encode_query(tiny.TEXTS, size=size)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_plain_checkpoint_is_pooled_as_asked(tmp_path: Path, pooling: str) -> None:
    folder = tiny.checkpoint(tmp_path / "m")
    encoder = ElasticEncoder(folder, pooling=pooling, device="cpu")
    features = encoder.preprocess([tiny.TEXTS[0]])
    inputs = {k: v for k, v in features.items() if isinstance(v, torch.Tensor)}
    with torch.no_grad():
        states = encoder.base(**inputs).last_hidden_state[0]
    expected = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
    np.testing.assert_allclose(encoder.encode(tiny.TEXTS[0]), expected.numpy(), atol=1e-5)


def test_heads_change_nothing_until_they_are_trained(minilm: str, exits: dict[int, np.ndarray]) -> None:
    fresh = ElasticEncoder(minilm, device="cpu")
    fresh.add_heads()
    for layers, vectors in fresh.exits(TEXTS).items():
        np.testing.assert_allclose(vectors, exits[layers], atol=1e-6)


def test_a_trained_head_is_saved_loaded_and_cut(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path / "m"), device="cpu")
    heads = encoder.add_heads()
    torch.manual_seed(1)
    with torch.no_grad():
        for head in heads.dense.values():
            head.linear.weight.normal_()
    expected = encoder.encode(tiny.TEXTS, size="2x16")
    encoder.save(str(tmp_path / "out"), create_model_card=False)
    assert "ExitHeads" not in (tmp_path / "out" / "modules.json").read_text()
    for again in (
        ElasticEncoder(str(tmp_path / "out"), device="cpu").encode(tiny.TEXTS, size="2x16"),
        ElasticEncoder(str(tmp_path / "out"), size="2x16", device="cpu").encode(tiny.TEXTS),
        encoder.truncate("2x16").encode(tiny.TEXTS),
    ):
        np.testing.assert_allclose(again, expected, atol=1e-5)
    # Saving over an older version leaves no heads of that version behind.
    plain = ElasticEncoder(tiny.sentence_model(tmp_path / "n"), device="cpu")
    plain.save(str(tmp_path / "out"), create_model_card=False)
    assert not (tmp_path / "out" / "exit_heads").exists()


def test_a_cut_model_is_independent_of_its_source(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    small = encoder.truncate("2x16")
    before = small.encode(tiny.TEXTS)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(small.encode(tiny.TEXTS), before)


@given(dims=st.integers(1, 12), scale=st.floats(0.01, 100))
def test_cut_normalizes_after_the_cut(dims: int, scale: float) -> None:
    rows = torch.randn(3, 12, generator=torch.Generator().manual_seed(dims))
    found = cut(rows * scale, dims)
    assert found.shape == (3, dims)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(found, rows[:, :dims] / rows[:, :dims].norm(dim=-1, keepdim=True))


class TestMistakes:
    """Each is one line that says what was wrong and how to mend it."""

    @pytest.mark.parametrize("size", ["7x8", "6x385", "0x8", "6x0", "big"])
    def test_a_size_the_model_lacks(self, encoder: ElasticEncoder, size: str) -> None:
        with pytest.raises(UserError) as raised:
            encoder.encode(TEXTS, size=size)
        assert "\n" not in str(raised.value)
        with pytest.raises(UserError):
            encoder.truncate(size)

    def test_loading_deeper_than_the_model(self, minilm: str) -> None:
        with pytest.raises(UserError, match="too deep: the model has 6 layers"):
            ElasticEncoder(minilm, size="9x8", device="cpu")

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        with pytest.raises(UserError, match=r"does not exist.*Did you mean 'model'"):
            ElasticEncoder(str(tmp_path / "modle"))

    def test_a_file_instead_of_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="is a file"):
            ElasticEncoder(str(tmp_path / "file"))

    def test_a_folder_that_is_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is not a model"):
            ElasticEncoder(str(tmp_path))

    def test_a_folder_without_weights(self, tmp_path: Path) -> None:
        folder = Path(tiny.sentence_model(tmp_path))
        (folder / "model.safetensors").unlink()
        with pytest.raises(UserError, match="has no weights"):
            ElasticEncoder(str(folder))

    def test_an_unknown_architecture(self, tmp_path: Path) -> None:
        folder = Path(tiny.checkpoint(tmp_path))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "albert"}))
        with pytest.raises(UserError, match=r"'albert' is not known.*add it"):
            ElasticEncoder(str(folder), size="2x8")

    def test_a_second_pooling(self, minilm: str) -> None:
        with pytest.raises(UserError, match="has a pooling of its own"):
            ElasticEncoder(minilm, pooling="cls")

    def test_an_unknown_pooling(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"'men' is not known.*Did you mean 'mean'"):
            ElasticEncoder(tiny.checkpoint(tmp_path), pooling="men")

    def test_a_name_the_hub_does_not_give(self) -> None:
        with pytest.raises(UserError, match="no such folder, and the hub") as raised:
            ElasticEncoder("nobody/nothing-at-all")
        assert "\n" not in str(raised.value)

    def test_saving_an_encoder_that_holds_one_size(self, minilm: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"save it with truncate\('2x8'\)"):
            ElasticEncoder(minilm, size="2x8", device="cpu").save(str(tmp_path / "x"))


def test_exits_batch_texts_of_as_many_tokens_whatever_their_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    # One long unknown word is one token; many short words are many.
    texts = ["unknownword" * 9, "a cat sat on the mat", "b" * 80, "the dog runs in the rain"]
    padded: list[int] = []
    preprocess = encoder.preprocess

    def count(*arguments: Any, **options: Any) -> dict[str, Any]:
        features = preprocess(*arguments, **options)
        padded.append(int((features["attention_mask"] == 0).sum()))
        return features

    monkeypatch.setattr(encoder, "preprocess", count)
    exits = encoder.exits(texts, batch_size=2)
    assert padded == [0, 0]
    for row, text in enumerate(texts):
        np.testing.assert_allclose(exits[4][row], encoder.encode(text), atol=1e-6)
