"""The loss of each size: what it depends on, whom its gradient reaches, and that it can be learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reproduction.tests.pretraining import small
from tests import tiny

from matryoshka2d.size import parse_sizes
from matryoshka2d_reproduction.pretraining.masking import UNMASKED
from matryoshka2d_reproduction.pretraining.objective import MaskedAutoencoding, losses_by_size


@pytest.fixture(scope="module")
def objective(model: str) -> MaskedAutoencoding:
    return small.objective(model)


def at_sizes(objective: MaskedAutoencoding, sizes: str) -> MaskedAutoencoding:
    """Return the same objective at other sizes."""
    parts = (objective.encoder, objective.head, objective.decoder)
    return MaskedAutoencoding(*parts, parse_sizes(sizes)).eval()


@settings(max_examples=12, deadline=None)
# Of a single dim the decoder, which sees directions, would see only the sign.
@given(layers=st.integers(1, tiny.LAYERS), dims=st.integers(2, tiny.WIDTH - 1), seed=st.integers(0, 99))
def test_a_size_depends_on_its_own_layer_and_its_first_dims_alone(
    objective: MaskedAutoencoding, layers: int, dims: int, seed: int
) -> None:
    objective = at_sizes(objective, f"{layers}x{dims}")
    made = small.batch(objective.encoder, seed=seed)
    heavy = {**made["features"], "input_ids": made["heavy_ids"]}
    states = objective.encoder.token_states(made["features"], [layers])
    vectors = objective.encoder.exit_vectors(made["features"], [layers])

    def both(shift: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            mlm = objective.mlm({n: state + shift for n, state in states.items()}, made["labels"])
            moved = {n: vector + shift for n, vector in vectors.items()}
            return torch.cat([mlm, objective.reconstruction(moved, heavy, made["heavy_labels"])])

    torch.manual_seed(seed)
    noise = torch.randn(tiny.WIDTH)
    place = torch.arange(tiny.WIDTH)
    plain = both(torch.zeros(tiny.WIDTH))
    assert torch.equal(both(noise * (place >= dims)), plain)
    inside = both(noise * (place < dims))
    for labels, moved, still in zip((made["labels"], made["heavy_labels"]), inside, plain, strict=True):
        assert moved != still or not (labels != UNMASKED).any()


@pytest.mark.parametrize("layers", range(1, tiny.LAYERS + 1))
def test_the_gradient_of_an_exit_reaches_its_own_layers_and_no_deeper_one(model: str, layers: int) -> None:
    objective = small.objective(model, f"{layers}x16")
    objective(**small.batch(objective.encoder))["loss"].backward()
    reached = [
        any(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())
        for layer in objective.encoder.base.encoder.layer
    ]
    assert reached == [n < layers for n in range(tiny.LAYERS)]


def test_beside_a_deeper_exit_an_inner_loss_still_reaches_no_deeper_layer(
    objective: MaskedAutoencoding,
) -> None:
    made = small.batch(objective.encoder)
    states = objective.encoder.token_states(made["features"], [1, 2, 4])
    objective.zero_grad()
    objective.mlm(states, made["labels"])[1].backward()
    gradients = [layer.output.dense.weight.grad for layer in objective.encoder.base.encoder.layer]
    assert [gradient is not None and bool(gradient.any()) for gradient in gradients] == [
        True,
        True,
        False,
        False,
    ]


def test_all_sizes_at_once_are_each_size_by_itself(model: str, objective: MaskedAutoencoding) -> None:
    made = small.batch(objective.encoder)
    with torch.no_grad():
        together = objective(**made)["loss"]
        alone = [at_sizes(objective, size)(**made)["loss"] for size in small.SIZES.split()]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_the_reconstruction_reaches_the_encoder_through_the_vector_alone(
    objective: MaskedAutoencoding,
) -> None:
    made = small.batch(objective.encoder)
    vectors = {
        n: vector.detach().requires_grad_()
        for n, vector in objective.encoder.exit_vectors(made["features"], [1, 2, 4]).items()
    }
    heavy = {**made["features"], "input_ids": made["heavy_ids"]}
    objective.zero_grad()
    objective.reconstruction(vectors, heavy, made["heavy_labels"]).sum().backward()
    layers = objective.encoder.base.encoder.layer
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in layers.parameters())
    for n, dims in ((1, 8), (2, 16), (4, 32)):
        gradient = vectors[n].grad
        assert gradient is not None
        assert gradient[:, :dims].any()
        assert not gradient[:, dims:].any()


def test_a_batch_without_a_masked_token_costs_nothing_and_breaks_nothing(
    objective: MaskedAutoencoding,
) -> None:
    made = small.batch(objective.encoder)
    for name in ("labels", "heavy_labels"):
        made[name] = torch.full_like(made[name], UNMASKED)
    loss = objective(**made)["loss"]
    loss.backward()
    assert loss.item() == 0


@given(st.integers(1, 5), st.integers(1, 7))
def test_the_losses_of_stacked_sizes_are_means_over_their_own_tokens(sizes: int, tokens: int) -> None:
    torch.manual_seed(sizes * 10 + tokens)
    scores, targets = torch.randn(sizes, tokens, 11), torch.randint(11, (tokens,))
    expected = torch.stack([torch.nn.functional.cross_entropy(one, targets) for one in scores])
    torch.testing.assert_close(losses_by_size(scores.flatten(0, 1), targets, sizes), expected)


def test_a_model_whose_vector_is_narrower_than_its_states_reads_whole_states(tmp_path: Path) -> None:
    objective = small.objective(tiny.sentence_model(tmp_path, dense=True), "2x8 4x24")
    made = small.batch(objective.encoder)
    loss = objective(**made)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    dense = objective.encoder[2].linear.weight
    assert dense.grad is not None
    assert dense.grad.any()


def test_both_losses_can_be_learnt_at_every_size(model: str) -> None:
    objective = small.objective(model).train()
    made = small.batch(objective.encoder)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    seen = []
    for _ in range(40):
        optimizer.zero_grad()
        objective(**made)["loss"].backward()
        optimizer.step()
        seen.append(objective.by_size.take())
    assert set(seen[0]) == {
        f"{kind}/{size}" for kind in ("mlm", "reconstruction") for size in small.SIZES.split()
    }
    assert all(seen[-1][name] < 0.8 * seen[0][name] for name in seen[0])
