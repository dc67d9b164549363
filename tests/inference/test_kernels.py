"""The compiled kernels compute what torch computes, and nobody misses them where they cannot be made."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka2d.inference import kernels, open_engine, packed
from matryoshka2d.inference.kernels import Kernels, load_kernels


@pytest.fixture(scope="module")
def compiled() -> Kernels:
    load_kernels.cache_clear()
    found = load_kernels()
    if found is None:
        pytest.skip("this machine cannot make them")
    return found


@settings(deadline=None, max_examples=40)
@given(
    texts=st.integers(1, 5),
    length=st.one_of(st.integers(1, 40), st.sampled_from([100, 112, 255, 256, 511, 512])),
    heads=st.integers(1, 4),
    width=st.sampled_from([32, 64]),
    spread=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_attention(compiled: Kernels, texts: int, length: int, heads: int, width: int, spread: float) -> None:
    torch.manual_seed(length)
    qkv = (spread * torch.randn(texts * length, 3 * heads * width)).bfloat16()
    out = torch.full((texts * length, heads * width), math.nan, dtype=torch.bfloat16)
    compiled.attention(qkv, out, [(0, texts, length)], heads)
    query, key, value = qkv.float().view(texts, length, 3, heads, width).permute(2, 0, 3, 1, 4)
    exact = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    parts = (part.bfloat16() for part in (query, key, value))
    usual = torch.nn.functional.scaled_dot_product_attention(*parts).float()
    # No further from exact than the library's own attention in bf16, but for one rounding of the result.
    allowed = 1.5 * (usual - exact).abs().max() + exact.abs().max() / 256
    assert (out.float() - exact.transpose(1, 2).reshape(out.shape)).abs().max() <= allowed


@settings(deadline=None, max_examples=60)
@given(
    rows=st.one_of(st.integers(1, 60), st.sampled_from([111, 112, 113])),
    pairs=st.one_of(st.integers(1, 40), st.sampled_from([192, 2048])),
    panels=st.integers(1, 3),
    then=st.sampled_from(["none", "gelu", "add"]),
)
def test_linear_maps(compiled: Kernels, rows: int, pairs: int, panels: int, then: str) -> None:
    torch.manual_seed(rows)
    inputs, outputs = 2 * pairs, 32 * panels
    x, weight = torch.randn(rows, inputs).bfloat16(), torch.randn(outputs, inputs).bfloat16()
    bias, other = torch.randn(outputs), torch.randn(rows, outputs).bfloat16()
    laid = compiled.panels(weight)
    found = compiled.linear(x, laid, bias, then, other if then == "add" else None)
    expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    if then == "gelu":
        expected = torch.nn.functional.gelu(expected)
    if then == "add":
        expected += other
    # One rounding of the result, and sums in float32 of numbers about as large as the root of `inputs`.
    torch.testing.assert_close(found.double(), expected, rtol=1 / 256, atol=2e-6 * inputs)
    # A row is summed in the same order whatever stands beside it.
    alone = compiled.linear(x[-1:], laid, bias, then, other[-1:] if then == "add" else None)
    assert torch.equal(alone, found[-1:])


def test_gelu_is_the_exact_one_near_and_far_from_zero(compiled: Kernels) -> None:
    values = torch.cat([torch.linspace(-12, 12, 4096), torch.tensor([0.0, -0.0, 1e-6, -1e-6, 300, -300])])
    x = torch.zeros(len(values), 2).bfloat16()
    x[:, 0] = values.bfloat16()
    weight = torch.zeros(32, 2).bfloat16()
    weight[:, 0] = 1
    found = compiled.linear(x, compiled.panels(weight), torch.zeros(32), "gelu")[:, 0]
    exact = torch.nn.functional.gelu(x[:, 0].double())
    torch.testing.assert_close(found.double(), exact, rtol=1 / 256, atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 9), blocks=st.integers(1, 70), offset=st.sampled_from([0.0, 100.0]))
def test_layer_norm(compiled: Kernels, rows: int, blocks: int, offset: float) -> None:
    torch.manual_seed(blocks)
    states = (torch.randn(rows, 16 * blocks) + offset).bfloat16()
    weight, bias = torch.randn(16 * blocks), torch.randn(16 * blocks)
    expected = torch.nn.functional.layer_norm(states.float(), (16 * blocks,), weight, bias, 1e-12)
    found = compiled.layer_norm(states, [weight, bias], 1e-12)
    torch.testing.assert_close(found.float(), expected, rtol=0.008, atol=0.002)


@settings(deadline=None, max_examples=20)
@given(tokens=st.integers(1, 50), blocks=st.integers(1, 30))
def test_embeddings(compiled: Kernels, tokens: int, blocks: int) -> None:
    torch.manual_seed(tokens)
    tables = torch.randn(40, 16 * blocks), torch.randn(20, 16 * blocks)
    norm = [torch.randn(16 * blocks), torch.randn(16 * blocks)]
    ids, positions = torch.randint(40, (tokens,)), torch.randint(20, (tokens,))
    summed = tables[0][ids] + tables[1][positions]
    expected = torch.nn.functional.layer_norm(summed, (16 * blocks,), *norm, 1e-12)
    found = compiled.embed(ids, positions, tables, norm, 1e-12)
    torch.testing.assert_close(found.float(), expected, rtol=0.008, atol=0.002)
    with pytest.raises(IndexError, match="of a table of 20"):
        compiled.embed(ids, positions + 20, tables, norm, 1e-12)


@pytest.mark.parametrize("hindrance", ["switch", "compiler", "units", "library", "broken"])
def test_they_are_never_required(
    hindrance: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, minilm: str
) -> None:
    if hindrance == "switch":
        monkeypatch.setenv(kernels.SWITCH, "0")
    elif hindrance == "compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
    elif hindrance == "units":
        monkeypatch.setattr(kernels, "kernel_flags", frozenset)
    elif hindrance == "library":  # as on processors without AVX-512
        monkeypatch.setenv(kernels.SWITCH, "0")
        monkeypatch.setattr(packed, "library_has_bf16", lambda: False)
    else:
        (tmp_path / "broken.c").write_text("this is not C")
        monkeypatch.setattr(kernels, "_SOURCE", tmp_path / "broken.c")
        monkeypatch.setattr(kernels, "kernel_flags", lambda: frozenset({"avx512_bf16"}))
    load_kernels.cache_clear()
    try:
        assert load_kernels() is None
        texts = ["a cat sat on the mat", "the dog", "red " * 100]
        exact = open_engine(minilm, "torch", "fp32").embed(texts)
        cosines = (open_engine(minilm, "torch", "bf16").embed(texts) * exact).sum(axis=1)
        assert np.min(cosines) > 0.999
    finally:
        load_kernels.cache_clear()


DRIVER = """
#include <stdio.h>
#include <stdlib.h>
static float *floats(long count) {
    float *some = malloc(count * sizeof(float));
    for (long i = 0; i < count; i++) some[i] = (float)(rand() % 2001 - 1000) / 500;
    return some;
}
int main(void) {
    const long shapes[][3] = {
        {1, 16, 16}, {5, 32, 48}, {6, 384, 16}, {47, 64, 32}, {49, 48, 16}, {100, 1536, 32}
    };
    for (int i = 0; i < 6; i++)
        for (int then = 0; then < 3; then++) {
            const long rows = shapes[i][0], inputs = shapes[i][1], outputs = shapes[i][2];
            float *x = floats(rows * inputs), *bias = floats(outputs), *scales = floats(outputs);
            float *other = floats(rows * outputs), *out = floats(rows * outputs);
            int16_t *panels = malloc(outputs * inputs * sizeof(int16_t));
            for (long j = 0; j < outputs * inputs; j++) panels[j] = (int16_t)(rand() % 600 - 300);
            if (linear(x, panels, scales, bias, other, out, rows, inputs, outputs, then)) return 2;
            if (linear(x, panels, scales, bias, other, out, rows, inputs + 1, outputs, then) != -1) return 3;
            free(x), free(bias), free(scales), free(other), free(out), free(panels);
        }
    const long lengths[] = {1, 2, 15, 16, 17, 33, 511, 512}, widths[] = {32, 64, 128};
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 3; j++) {
            const long rows = 2 * lengths[i], hidden = 2 * widths[j];
            float *qkv = floats(rows * 3 * hidden), *out = floats(rows * hidden);
            const long span[] = {0, 2, lengths[i]}, over[] = {0, 1, 513};
            if (attention(qkv, out, span, 1, rows, hidden, 2, 0.2f)) return 4;
            if (attention(qkv, out, over, 1, 513, hidden, 2, 0.2f) != -1) return 5;
            free(qkv), free(out);
        }
    const long shaped[][3] = {{1, 32, 16}, {2, 64, 48}, {4, 128, 528}};
    for (int i = 0; i < 3; i++) {
        const long heads = shaped[i][0], hidden = shaped[i][1], inner = shaped[i][2], rows = 549;
        const long sizes[][2] = {{hidden, 3 * hidden}, {hidden, hidden}, {hidden, inner}, {inner, hidden}};
        Map maps[4];
        for (int j = 0; j < 4; j++) {
            int16_t *panels = malloc(sizes[j][0] * sizes[j][1] * sizeof(int16_t));
            for (long k = 0; k < sizes[j][0] * sizes[j][1]; k++) panels[k] = (int16_t)(rand() % 600 - 300);
            maps[j] = (Map){panels, floats(sizes[j][1]), floats(sizes[j][1])};
        }
        float *norm = floats(hidden);
        const Layer one = {maps[0], maps[1], maps[2], maps[3], norm, norm, norm, norm};
        const Layer both[] = {one, one};
        const long spans[] = {0, 3, 1, 3, 2, 17, 37, 1, 512};
        float *states = floats(rows * hidden), *room = floats(rows * 4 * hidden + 48 * (inner + hidden));
#define RUN(groups, to) layers(states, both, spans, room, 2, groups, rows, hidden, to, heads, 1e-12f, 0.2f)
        if (RUN(3, inner)) return 6;
        if (RUN(2, inner) != -1 || RUN(3, inner + 1) != -1) return 7;
        for (int j = 0; j < 4; j++)
            free((void *)maps[j].panels), free((void *)maps[j].scales), free((void *)maps[j].bias);
        free(norm), free(states), free(room);
    }
    return 0;
}
"""


def test_integers_read_and_write_only_what_is_theirs(tmp_path: Path) -> None:
    if load_kernels("int16") is None:
        pytest.skip("this machine cannot make them")
    source = Path(kernels.__file__).with_name("integers.c")
    (tmp_path / "driver.c").write_text(f'#include "{source}"\n{DRIVER}')
    flags = ["-O1", "-g", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = ["cc", *flags, "-o", str(tmp_path / "driver"), str(tmp_path / "driver.c")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no sanitizers: {made.stderr[-200:]}")
    ran = subprocess.run([str(tmp_path / "driver")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_library_that_others_can_write_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if load_kernels("int16") is None:
        pytest.skip("this machine cannot make them")
    monkeypatch.setenv("MATRYOSHKA2D_CACHE", str(tmp_path))
    load_kernels.cache_clear()
    try:
        assert load_kernels("int16") is not None
        (library,) = (tmp_path / "kernels").glob("*.so")
        assert library.stat().st_mode & 0o777 == 0o700
        # Another file in its place: what was loaded is still mapped.
        library.unlink()
        library.write_bytes(b"another's")
        library.chmod(0o777)
        load_kernels.cache_clear()
        assert load_kernels("int16") is not None
        assert library.read_bytes() != b"another's"
    finally:
        load_kernels.cache_clear()
