"""Linear maps in whole numbers of 16 bits and their attention, against torch in fp32 and fp64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.inference import open_engine
from matryoshka2d.inference import torch_engine as home
from matryoshka2d.inference.integers import IntegerKernels, LayerWeights, whole_numbers
from matryoshka2d.inference.kernels import load_kernels
from tests import tiny

kernels: Any = load_kernels("int16")
needs_kernels = pytest.mark.skipif(kernels is None, reason="no AVX2, or no compiler")
TEXTS = ["a", "a red house", "the dog in the rain", "rain " * 40]


def _without_middles(x: torch.Tensor) -> torch.Tensor:
    """Numbers halfway between two whole ones become 0: fp32 may round them either way."""
    scaled = x.double() * 2047 / x.double().abs().amax(dim=1, keepdim=True)
    return x.masked_fill((scaled.frac().abs() - 0.5).abs() < 2e-3, 0.0)


@needs_kernels
@given(
    rows=st.integers(1, 60),
    inputs=st.integers(1, 8).map(lambda i: 16 * i),
    outputs=st.integers(1, 5).map(lambda i: 16 * i),
    then=st.sampled_from(["none", "gelu", "add"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_map_is_that_of_rounded_rows_and_weights(
    rows: int, inputs: int, outputs: int, then: str, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, inputs) * 3, torch.randn(outputs, inputs)
    bias, other = torch.randn(outputs), torch.randn(rows, outputs)
    x = _without_middles(x)
    found = kernels.linear(x, kernels.panels(weight), bias, then, other if then == "add" else None)
    steps = weight.abs().amax(dim=1, keepdim=True) / whole_numbers(inputs)
    largest = x.abs().amax(dim=1, keepdim=True)
    rounded = (x * (2047 / largest)).round().double() * largest / 2047
    expected = functional.linear(rounded, (weight / steps).round().double() * steps, bias.double())
    expected = {"none": expected, "gelu": functional.gelu(expected), "add": expected + other}[then]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


@needs_kernels
@pytest.mark.parametrize("inputs", [384, 768, 1536, 3072, 4096])
def test_largest_sums_have_room(inputs: int) -> None:
    x, weight = torch.full((7, inputs), 5.0), torch.full((16, inputs), -3.0)
    found = kernels.linear(x, kernels.panels(weight), torch.zeros(16))
    torch.testing.assert_close(found, torch.full((7, 16), -15.0 * inputs), rtol=1e-6, atol=0)


@needs_kernels
def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    x, panels, bias = torch.randn(50, 64), kernels.panels(torch.randn(32, 64)), torch.randn(32)
    whole = kernels.linear(x, panels, bias)
    for start in (0, 1, 3, 44, 49):
        assert torch.equal(kernels.linear(x[start:], panels, bias), whole[start:])


@needs_kernels
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none_and_touches_no_other_row(wrong: float) -> None:
    x, panels, bias = torch.randn(3, 32), kernels.panels(torch.randn(16, 32)), torch.zeros(16)
    expected = kernels.linear(x, panels, bias)
    x[1, 5] = wrong
    found = kernels.linear(x, panels, bias)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


@needs_kernels
def test_zeros_and_the_smallest_numbers_give_the_bias() -> None:
    x, panels, bias = torch.zeros(2, 32), kernels.panels(torch.zeros(16, 32)), torch.randn(16)
    x[1] = 1e-41
    assert torch.equal(kernels.linear(x, panels, bias), bias.expand(2, 16))


@needs_kernels
@given(
    texts=st.integers(1, 3),
    length=st.integers(1, 40) | st.sampled_from([63, 64, 65, 511, 512]),
    width=st.sampled_from([32, 64, 128]),
    heads=st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_attention_is_torchs(texts: int, length: int, width: int, heads: int) -> None:
    torch.manual_seed(length)
    hidden = heads * width
    qkv, out = torch.randn(texts * length, 3 * hidden), torch.empty(texts * length, hidden)
    kernels.attention(qkv, out, [(0, texts, length)], heads)
    query, key, value = qkv.double().view(texts, length, 3, heads, width).permute(2, 0, 3, 1, 4)
    expected = functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(
        out.double(), expected.transpose(1, 2).reshape(out.shape), rtol=1e-4, atol=1e-5
    )


def _some_layers(count: int, heads: int, hidden: int, inner: int) -> Any:
    """Random layers: their maps, their norms, and both as the compiled layers read them."""
    shapes = [(3 * hidden, hidden), (hidden, hidden), (inner, hidden), (hidden, inner)]
    maps = [
        [(kernels.panels(torch.randn(shape) / shape[1] ** 0.5), torch.randn(shape[0])) for shape in shapes]
        for _ in range(count)
    ]
    norms = [[[torch.rand(hidden) + 0.5, torch.randn(hidden)] for _ in range(2)] for _ in range(count)]
    return maps, norms, LayerWeights(maps, norms, heads, 1e-12)


@needs_kernels
@given(
    spans=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 40)), min_size=1, max_size=4),
    width=st.sampled_from([32, 64]),
    heads=st.integers(1, 2),
    inner=st.integers(1, 5).map(lambda i: 16 * i),
    count=st.integers(1, 2),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_layers_in_one_call_are_the_maps_and_norms_one_by_one(
    spans: list[tuple[int, int]], width: int, heads: int, inner: int, count: int, seed: int
) -> None:
    torch.manual_seed(seed)
    hidden, starts = heads * width, np.cumsum([0, *(texts * length for texts, length in spans)])
    placed = [(int(start), *span) for start, span in zip(starts, spans, strict=False)]
    maps, norms, weights = _some_layers(count, heads, hidden, inner)
    found = torch.randn(int(starts[-1]), hidden)
    expected = found.clone()
    kernels.layers(found, placed, weights, 0, count)
    for (qkv, output, up, down), (first, second) in zip(maps, norms, strict=True):
        joined, attended = kernels.linear(expected, *qkv), torch.empty_like(expected)
        kernels.attention(joined, attended, placed, heads)
        summed = kernels.linear(attended, *output, "add", expected)
        states = functional.layer_norm(summed, (hidden,), *first, 1e-12)
        summed = kernels.linear(kernels.linear(states, *up, "gelu"), *down, "add", states)
        expected = functional.layer_norm(summed, (hidden,), *second, 1e-12)
    # A norm may differ in its last bit, and so a number near the middle go to the other whole one.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)
    assert (found - expected).abs().mean() < 1e-3


@needs_kernels
def test_layers_are_those_that_were_asked_for_and_rows_are_alone() -> None:
    _, _, weights = _some_layers(3, 2, 64, 48)
    states = torch.randn(12, 64)
    whole, stepped, alone = states.clone(), states.clone(), states[7:].clone()
    kernels.layers(whole, [(0, 1, 7), (7, 1, 5)], weights, 0, 3)
    for layer in range(3):
        kernels.layers(stepped, [(0, 1, 7), (7, 1, 5)], weights, layer, layer + 1)
    kernels.layers(alone, [(0, 1, 5)], weights, 0, 3)
    assert torch.equal(whole, stepped)
    assert torch.equal(whole[7:], alone)


@needs_kernels
@pytest.mark.parametrize(
    "spans",
    [[], [(0, 1, 11)], [(0, 1, 13)], [(1, 1, 11)], [(0, 2, 7)], [(0, 1, 12), (12, 0, 1)], [(0, 12, 0)]],
)
def test_texts_that_do_not_lie_end_to_end_are_refused(spans: list[tuple[int, int, int]]) -> None:
    _, _, weights = _some_layers(1, 2, 64, 48)
    states = torch.randn(12, 64)
    before = states.clone()
    with pytest.raises(ValueError, match="shape"):
        kernels.layers(states, spans, weights, 0, 1)
    assert torch.equal(states, before)


@needs_kernels
def test_shapes_that_do_not_fit_are_refused_before_memory_is_read() -> None:
    x, panels, bias = torch.randn(2, 32), kernels.panels(torch.randn(16, 32)), torch.zeros(16)
    for wrong in (
        lambda: kernels.linear(x[:, :16], panels, bias),
        lambda: kernels.linear(x, panels, torch.zeros(32)),
        lambda: kernels.linear(x.double(), panels, bias),
        lambda: kernels.linear(x, panels, bias, "add", torch.zeros(3, 16)),
        lambda: kernels.attention(torch.zeros(4, 96), torch.zeros(4, 32), [(0, 1, 5)], 1),
        lambda: kernels.attention(torch.zeros(600, 96), torch.zeros(600, 32), [(0, 1, 600)], 1),
        lambda: kernels.attention(torch.zeros(4, 48), torch.zeros(4, 16), [(0, 1, 4)], 1),
    ):
        with pytest.raises(ValueError, match=r"shape|float32"):
            wrong()
    assert not IntegerKernels.maps(torch.float32, 40, 32)
    assert not IntegerKernels.maps(torch.float32, 4112, 32)
    assert not IntegerKernels.maps(torch.bfloat16, 32, 32)


@needs_kernels
@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_a_model_agrees_with_fp32_at_every_depth_and_alone(model_type: str, tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path, model_type), device="cpu")
    exact, whole = (open_engine(encoder, "torch", precision) for precision in ("fp32", "int16"))
    assert whole.precision == "int16"
    for layers in range(1, tiny.LAYERS + 1):
        size = f"{layers}x{encoder.width}"
        expected, found = exact.embed(TEXTS, size), whole.embed(TEXTS, size)
        assert np.einsum("ij,ij->i", expected, found).min() > 0.9999
        alone = np.concatenate([whole.embed([text], size) for text in TEXTS])
        np.testing.assert_allclose(alone, found, atol=2e-6)


@needs_kernels
def test_the_real_model_agrees_with_fp32(sample: list[str]) -> None:
    exact, whole = (open_engine("default", "torch", precision, "cpu") for precision in ("fp32", "int16"))
    for size in ("1x384", "3x384", "6x384"):
        cosines = np.einsum("ij,ij->i", exact.embed(sample, size), whole.embed(sample, size))
        assert cosines.min() > 0.9995
        assert cosines.mean() > 0.9999


@pytest.fixture
def sample() -> list[str]:
    from matryoshka2d.inference.benchmark import sample_texts

    return [*sample_texts(), "word " * 200]


def test_auto_takes_it_where_it_runs_and_a_wish_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bert = ElasticEncoder(tiny.sentence_model(tmp_path / "bert", "bert"), device="cpu")
    other = ElasticEncoder(tiny.sentence_model(tmp_path / "mpnet", "mpnet"), device="cpu")
    monkeypatch.setattr(home, "best_precision", lambda _: home.resolve_precision("fp32", "cpu"))
    monkeypatch.setattr(home, "load_kernels", lambda name: kernels if name == "int16" else None)
    if kernels is not None:
        assert open_engine(bert).precision == "int16"
    assert open_engine(other).precision == "fp32"
    with pytest.raises(UserError, match="BERT-like"):
        open_engine(other, precision="int16")
    monkeypatch.setattr(home, "load_kernels", lambda _: None)
    assert open_engine(bert).precision == "fp32"
    with pytest.raises(UserError, match="AVX2"):
        open_engine(bert, precision="int16")
