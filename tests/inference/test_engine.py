"""Every engine is the same function as `encode`, opened by name."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matryoshka2d.encoder.architectures import ARCHITECTURES
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.inference import Engine, open_engine
from matryoshka2d.size import Size
from tests import tiny

ENGINES = ["torch", "onnx"]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, model: str, graphs: None) -> Engine:
    return open_engine(model, request.param, precision="fp32", device="cpu")


@pytest.mark.parametrize("size", [None, "1x8", "3x16", "4x32"])
def test_it_is_the_function_of_encode(
    engine: Engine, encoder: ElasticEncoder, mixed: list[str], size: str | None
) -> None:
    vectors = engine.embed(mixed, size)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, encoder.encode(mixed, size=size or encoder.size), atol=1e-5)


def test_a_prompt_is_put_before_every_text(engine: Engine, encoder: ElasticEncoder) -> None:
    expected = encoder.encode(tiny.TEXTS, prompt_name="query")
    np.testing.assert_allclose(engine.embed(tiny.TEXTS, prompt_name="query"), expected, atol=1e-5)
    np.testing.assert_allclose(engine.embed(tiny.TEXTS, prompt="query : "), expected, atol=1e-5)


def test_no_texts_give_no_vectors(engine: Engine) -> None:
    assert engine.embed([], "2x8").shape == (0, 8)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_text_has_the_same_vector_whatever_stands_beside_it(
    engine: Engine, mixed: list[str], data: st.DataObject
) -> None:
    alone = np.concatenate([engine.embed([text], "2x32") for text in mixed[:12]])
    rows = data.draw(st.lists(st.integers(0, len(mixed) - 1), min_size=1, max_size=60))
    vectors = engine.embed([mixed[row] for row in rows], "2x32")
    for row, vector in zip(rows, vectors, strict=True):
        if row < 12:
            np.testing.assert_allclose(vector, alone[row], atol=2e-6)


def test_a_text_that_comes_twice_is_tokenized_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    whole = type(engine.tokenizer).__call__

    def note(self: object, texts: list[str], *arguments: object) -> object:
        seen.extend(texts)
        return whole(self, texts, *arguments)

    monkeypatch.setattr(type(engine.tokenizer), "__call__", note)
    vectors = engine.embed(["red house", "cat", "red house", "red house"])
    assert seen == ["red house", "cat"]
    np.testing.assert_array_equal(vectors[0], vectors[3])


def test_many_callers_may_ask_for_different_sizes_at_once(engine: Engine, mixed: list[str]) -> None:
    sizes = ["1x32", "2x8", "3x16", "4x32"] * 8
    expected = {size: engine.embed(mixed, size) for size in set(sizes)}
    together = threading.Barrier(8)

    def ask(i: int) -> None:
        if i < 8:
            together.wait(timeout=30)
        one = i % len(mixed)
        np.testing.assert_allclose(
            engine.embed([mixed[one]], sizes[i]), expected[sizes[i]][one : one + 1], atol=2e-6
        )
        np.testing.assert_allclose(engine.embed(mixed, sizes[i]), expected[sizes[i]], atol=2e-6)

    with ThreadPoolExecutor(8) as callers:
        list(callers.map(ask, range(len(sizes))))


def test_it_is_an_engine_and_says_what_it_is(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    assert (engine.name, engine.precision, engine.device) == (engine.name, "fp32", "cpu")
    assert (engine.depth, engine.width, str(engine.size)) == (tiny.LAYERS, tiny.WIDTH, "4x32")
    assert Size(4, 32) in engine.sizes


def test_mistakes_are_one_line(model: str, engine: Engine) -> None:
    with pytest.raises(UserError, match=r"no engine is called 'troch'.*Did you mean 'torch'\?"):
        open_engine(model, "troch")
    with pytest.raises(UserError, match=r"no precision is called 'fp31'.*Did you mean 'fp32'"):
        open_engine(model, engine.name, "fp31")
    with pytest.raises(UserError, match="expected a list of texts"):
        engine.embed("a cat")
    with pytest.raises(UserError, match="text 1 is a int: expected a str"):
        engine.embed(["a cat", 3])  # type: ignore[list-item]
    with pytest.raises(UserError, match="too deep"):
        engine.embed(["a cat"], "9x8")
    with pytest.raises(UserError, match=r"no prompt 'qeury'.*Did you mean 'query'\?"):
        engine.embed(["a cat"], prompt_name="qeury")


def test_an_error_in_a_batch_reaches_the_caller_and_the_engine_lives_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "run", lambda tokens, layers: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.embed(tiny.TEXTS)
    assert len(engine.embed(tiny.TEXTS)) == len(tiny.TEXTS)


@functools.lru_cache
def _opened(model: str) -> Any:
    return open_engine(model, "torch", "fp32", device="cpu")


class TestTorch:
    @pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
    @pytest.mark.parametrize("padding_side", ["right", "left"])
    def test_every_architecture(
        self, tmp_path: Path, mixed: list[str], model_type: str, padding_side: str
    ) -> None:
        folder = tiny.sentence_model(tmp_path, model_type, padding_side=padding_side)
        encoder = ElasticEncoder(folder, device="cpu")
        engine = open_engine(encoder, "torch", "fp32")
        for size in ("2x16", "4x32"):
            # Texts one by one: padded on the left, absolute positions would depend on the longest text.
            alone = encoder.encode(mixed, size=size, batch_size=1)
            np.testing.assert_allclose(engine.embed(mixed, size), alone, atol=2e-5)

    @pytest.mark.parametrize(
        "pooling", ["mean", "cls", "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean"]
    )
    def test_every_pooling_with_heads_and_later_modules(
        self, tmp_path: Path, mixed: list[str], pooling: str
    ) -> None:
        encoder = ElasticEncoder(tiny.sentence_model(tmp_path, pooling=pooling, dense=True), device="cpu")
        heads = encoder.add_heads()
        for parameter in heads.parameters():
            parameter.data += 0.1
        engine = open_engine(encoder, "torch", "fp32")
        for size in ("2x16", "4x24"):
            np.testing.assert_allclose(engine.embed(mixed, size), encoder.encode(mixed, size=size), atol=1e-5)

    def test_a_prompt_that_pooling_leaves_out(self, tmp_path: Path, mixed: list[str]) -> None:
        folder = tiny.sentence_model(tmp_path, include_prompt=False, prompts={"query": "query : "})
        encoder = ElasticEncoder(folder, device="cpu")
        vectors = open_engine(encoder, "torch", "fp32").embed(mixed, prompt_name="query")
        np.testing.assert_allclose(vectors, encoder.encode(mixed, prompt_name="query"), atol=1e-5)

    def test_a_loaded_encoder_is_left_as_it_is(self, encoder: ElasticEncoder) -> None:
        before = encoder.encode(tiny.TEXTS)
        open_engine(encoder, "torch", "bf16").embed(tiny.TEXTS)
        np.testing.assert_array_equal(encoder.encode(tiny.TEXTS), before)

    @settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(lengths=st.lists(st.integers(1, 58), min_size=1, max_size=24), layers=st.integers(1, 4))
    def test_texts_padded_to_attend_together_are_as_alone(
        self, model: str, lengths: list[int], layers: int
    ) -> None:
        engine = _opened(model)
        words = tiny.WORDS.split()
        tokens = engine.tokenizer([" ".join((words * 10)[:length]) for length in sorted(lengths)])
        together = engine.runner.run(tokens, layers)
        alone = [engine.runner.run(tokens.take(np.array([i])), layers)[0] for i in range(len(tokens))]
        np.testing.assert_allclose(together, alone, atol=5e-6)

    def test_more_cores_change_no_bit(self, minilm: str, mixed: list[str]) -> None:
        engine: Any = open_engine(minilm, "torch", "fp32")
        runner, tokens = engine.runner, engine.tokenizer(mixed[:1])
        before, found = torch.get_num_threads(), []
        try:
            for cores in (1, 2, 4):
                torch.set_num_threads(cores)
                found.append(runner.run(tokens, 6))
        finally:
            torch.set_num_threads(before)
        for vectors in found[1:]:
            np.testing.assert_array_equal(vectors, found[0])

    def test_callers_of_several_depths_at_once(self, model: str, mixed: list[str]) -> None:
        engine = _opened(model)
        expected = {n: engine.embed(mixed, Size(n, 32)) for n in range(1, 5)}
        sizes: list[int] = []
        engine.watch(lambda texts, _: sizes.append(texts))
        try:
            jobs = [
                (i, 1 + i % 4, engine.begin(engine.tokenizer([mixed[i % 40]]), 1 + i % 4)[0][1])
                for i in range(200)
            ]
            for i, depth, job in jobs:
                vector = job.future.result(timeout=30)[0]
                vector = vector / np.linalg.norm(vector)
                np.testing.assert_allclose(vector, expected[depth][i % 40], atol=2e-6)
        finally:
            engine.watch(lambda *_: None)
        assert sum(sizes) == 200 and max(sizes) > 1

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_the_real_model(self, minilm: str, mixed: list[str], precision: str) -> None:
        encoder = ElasticEncoder(minilm, device="cpu")
        texts = [*mixed, "The Prime Minister flew to Tokyo.", "x" * 3000, "ünïcödé 東京 🎉", " ", "\u200b"]
        engine = open_engine(encoder, "torch", precision)
        for size in ("6x384", "3x384", "1x384"):
            cosines = (engine.embed(texts, size) * encoder.encode(texts, size=size)).sum(axis=1)
            assert cosines.min() > (0.999 if precision == "bf16" else 1 - 1e-6)

    def test_bf16_is_stable_too(self, minilm: str, mixed: list[str]) -> None:
        engine = open_engine(minilm, "torch", "bf16")
        alone = np.concatenate([engine.embed([text]) for text in mixed])
        cosines = (engine.embed(mixed[::-1])[::-1] * alone).sum(axis=1)
        assert cosines.min() > 0.9999

    def test_only_the_layers_of_a_size_are_loaded(self, model: str, encoder: ElasticEncoder) -> None:
        engine = open_engine(model, "torch", "fp32", size="2x16")
        assert (engine.depth, str(engine.size)) == (2, "2x16")
        np.testing.assert_allclose(
            engine.embed(tiny.TEXTS), encoder.encode(tiny.TEXTS, size="2x16"), atol=1e-5
        )

    def test_a_deeper_exit_takes_more_memory(self, model: str) -> None:
        memory = open_engine(model, "torch", "fp32").memory()
        assert sorted(memory) == [1, 2, 3, 4]
        assert 0 < memory[1] < memory[2] < memory[3] < memory[4]

    def test_there_is_no_int8(self, model: str) -> None:
        with pytest.raises(UserError, match="the torch engine has no int8: choose the engine onnx"):
            open_engine(model, "torch", "int8")
