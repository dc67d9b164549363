"""Dropout with a generator of its own: the chance, the scale, the gradient, and attention without masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from matryoshka2d.losses.dropout import SeededDropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elements_are_dropped_with_the_chance_and_the_others_scaled(p: float, dtype: torch.dtype) -> None:
    x = torch.ones(999, 1001, dtype=dtype, requires_grad=True)
    with SeededDropout(4):
        dropped = nn.Dropout(p)(x)
    # Five standard errors of a share among a million.
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / 1e6) ** 0.5)
    torch.testing.assert_close(dropped.max().item(), 1 / (1 - p), rtol=4e-3, atol=0)
    dropped.backward(torch.ones_like(dropped))
    assert x.grad is not None
    assert torch.equal(x.grad, dropped)


def test_neighbors_rows_and_calls_are_dropped_independently() -> None:
    with SeededDropout(5):
        first, second = (functional.dropout(torch.ones(1000, 1000), 0.5) != 0 for _ in range(2))
    for one, other in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        assert (one == other).float().mean().item() == pytest.approx(0.5, abs=2.5e-3)


def test_nothing_is_dropped_where_nothing_is_trained() -> None:
    x = torch.ones(3, 3)
    with SeededDropout(6):
        assert torch.equal(nn.Dropout(0.5).eval()(x), x)
        assert torch.equal(functional.dropout(x, 0.0), x)
        assert torch.equal(functional.dropout(x, 1.0), torch.zeros(3, 3))
        functional.dropout(x, 1 - 1e-4, inplace=True)
    assert all(value in (0.0, pytest.approx(1e4, rel=0.2)) for value in x.flatten().tolist())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(1)) > 0.2},
        {"attn_mask": torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(1))},
        {"enable_gqa": True},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_fused_attention_is_torchs_but_for_its_masks(options: dict[str, Any]) -> None:
    heads = 2 if "enable_gqa" in options else 4
    torch.manual_seed(7)
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, heads, 5, 8), torch.randn(2, heads, 5, 8)
    expected = functional.scaled_dot_product_attention(query, key, value, **options)
    with SeededDropout(8):
        # A chance below what a mask can have, so that none is drawn.
        found = functional.scaled_dot_product_attention(query, key, value, dropout_p=1e-9, **options)
        masked = functional.scaled_dot_product_attention(query, key, value, dropout_p=0.5, **options)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(masked, expected, atol=1e-2)
