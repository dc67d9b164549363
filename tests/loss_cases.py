"""What a plan or a loss comes to: its value, and what it asks of every weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.losses.elastic_loss import loss_parts, sum_of

Computed = tuple[Tensor, dict[str, Tensor]]
"""A loss, and the gradient of every weight that has one."""


def step_loss(*plan_and_vectors: Any, **options: Any) -> Tensor:
    """Return the sum of all weighted terms and pulls of a plan: the arguments of `loss_parts`."""
    return sum_of(part.total() for part in loss_parts(*plan_and_vectors, **options))


def value_and_gradients(encoder: ElasticEncoder, make: Callable[[], Tensor]) -> Computed:
    """Return a loss and what it asks of every weight."""
    encoder.zero_grad(set_to_none=True)
    value = make()
    value.backward()
    named = ((name, parameter.grad) for name, parameter in encoder.named_parameters())
    return value.detach(), {name: grad.clone() for name, grad in named if grad is not None}


def assert_same(found: Computed, expected: Computed) -> None:
    """Hold two losses and their gradients equal, to 1e-5 of the largest gradient."""
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    assert largest > 1e-3
    # A gradient that is zero for one may be missing for the other.
    for name in {*found[1], *expected[1]}:
        ours, theirs = (grads.get(name, torch.zeros(())) for grads in (found[1], expected[1]))
        assert float((ours - theirs).abs().max()) <= 1e-5 * largest, name
