"""One step of every strategy equals its formula, written out in loops over given exit vectors."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from matryoshka2d.losses.objectives import InfoNCE
from matryoshka2d.losses.strategies import ESE, AllSizes, CoordinateKL, PcaTarget, Starbucks, TwoDMSE
from matryoshka2d.losses.strategies.base import Pull, Shape, StepPlan, Strategy
from matryoshka2d.size import Size
from tests.loss_cases import step_loss
from tests.losses.objectives import references

N, D, K = 4, 8, 4
SIZES = (Size(1, 2), Size(3, 4), Size(4, 2), Size(2, 8))
SCALE = 5.0

Exits = Mapping[int, list[Tensor]]
Gradients = dict[int, list[Tensor]]


def exits(rows: int = 3, columns: int = 3) -> dict[int, list[Tensor]]:
    """Return the vectors of exits 0 to N, of a length other than 1."""
    generator = torch.Generator().manual_seed(0)
    return {
        n: [
            torch.randn(rows, D, generator=generator, dtype=torch.float64).requires_grad_()
            for _ in range(columns)
        ]
        for n in range(N + 1)
    }


def cut(columns: list[Tensor], dims: int) -> list[Tensor]:
    return [torch.stack([vector[:dims] for vector in column]) for column in columns]


def fixed(columns: list[Tensor]) -> list[Tensor]:
    return [column.detach() for column in columns]


def objective(given: Exits, layers: int, dims: int) -> Tensor:
    return references.infonce(cut(given[layers], dims), SCALE)


# --- the formulas -------------------------------------------------------------------------------


def two_dmse(given: Exits, n: int, *, inner: float, pull: float, teacher: list[Tensor]) -> Tensor:
    """Four objectives, the two of layer n weighted, and the KL of layer n against the last."""
    loss = objective(given, N, D) + objective(given, N, K)
    loss = loss + inner * (objective(given, n, D) + objective(given, n, K))
    return loss + pull * references.coordinate_kl(given[n], teacher, 1.0, 1.0)


def two_dmse_paper(given: Exits, plan: StepPlan) -> Tensor:
    (n,) = {term.layers for term in plan.terms} - {N}
    return two_dmse(given, n, inner=1.0, pull=1.0, teacher=fixed(given[N]))


def two_dmse_first_code(given: Exits, plan: StepPlan) -> Tensor:
    (n,) = {term.layers for term in plan.terms} - {N}
    return two_dmse(given, n, inner=1.0 / n, pull=math.log(2 + n), teacher=given[N])


def pca_target(columns: list[Tensor]) -> Tensor:
    """``X U S`` of the softmax of XᵀX / √D, each column of U signed so that its largest entry is positive."""
    x = torch.cat(fixed(columns))
    affinity = torch.stack([torch.softmax(row / math.sqrt(D), dim=0) for row in x.T @ x])
    u, s, _ = torch.linalg.svd(affinity)
    target = []
    for k in range(K):
        axis = u[:, k] if u[u[:, k].abs().argmax(), k] > 0 else -u[:, k]
        target.append(x @ axis * s[k])
    return torch.stack(target, dim=1)


def ese(given: Exits, plan: StepPlan, temperature: float = 0.7) -> Tensor:
    loss = objective(given, N, D)
    for n in range(1, N + 1):
        weight = 1.0 if n == N else 1 / (1 + math.log(n)) / (N - 1)
        vectors, target = torch.cat(cut(given[n], K)), pca_target(given[n])
        squares = sum((v - t) ** 2 for v, t in zip(vectors.flatten(), target.flatten(), strict=True))
        pull = squares / vectors.numel()
        pull = pull + references.coordinate_kl([vectors], [target], temperature, temperature)
        loss = loss + weight * (objective(given, n, K) + pull)
    return loss


def starbucks_sts(given: Exits, plan: StepPlan) -> Tensor:
    loss = objective(given, N, D)
    for size in SIZES:
        loss = loss + objective(given, size.layers, size.dims)
        if size.layers < N:
            student, teacher = cut(given[size.layers], size.dims), cut(given[N], size.dims)
            loss = loss + references.coordinate_kl(student, teacher, 1.0, 0.3)
    return loss


def starbucks_retrieval(given: Exits, plan: StepPlan) -> Tensor:
    loss = objective(given, N, D)
    for size in SIZES:
        student = cut(given[size.layers], size.dims)
        loss = loss + objective(given, size.layers, size.dims)
        loss = loss + references.anchors_to_texts_kl(student, fixed(given[N]), 0.05)
    return loss


def all_sizes(given: Exits, plan: StepPlan) -> Tensor:
    loss = objective(given, N, D)
    for size in SIZES:
        student, teacher = cut(given[size.layers], size.dims), fixed(given[N])
        kl = references.all_to_all_kl([*torch.cat(student)], [*torch.cat(teacher)], 0.05)
        loss = loss + (0.1 * objective(given, size.layers, size.dims) + 3 * kl) / len(SIZES)
    return loss


# --- the plans ----------------------------------------------------------------------------------


def made(strategy: Strategy, seed: int = 0) -> StepPlan:
    """Return the plan, with the exact SVD where there is one."""
    plan = strategy.plan(Shape(N, D), random.Random(seed))
    return replace(plan, pulls=tuple(exactly(pull) for pull in plan.pulls))


def exactly(pull: Pull) -> Pull:
    if isinstance(pull.alignment, PcaTarget):
        return replace(pull, alignment=replace(pull.alignment, exact=True))
    return pull


@dataclass(frozen=True)
class Case:
    name: str
    strategy: Strategy
    formula: Callable[[Exits, StepPlan], Tensor]

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("2dmse", TwoDMSE(dims=(K,)), two_dmse_paper),
    Case("2dmse first code", TwoDMSE(variant="first-code", dims=(K,)), two_dmse_first_code),
    Case("ese", ESE(dims=K, temperature=0.7), ese),
    Case("starbucks sts", Starbucks(sizes=SIZES), starbucks_sts),
    Case("starbucks retrieval", Starbucks(sizes=SIZES, alignment="retrieval"), starbucks_retrieval),
    Case("all-sizes", AllSizes(sizes=SIZES), all_sizes),
]


def gradients(loss: Tensor, given: Exits) -> Gradients:
    flat = [column for n in sorted(given) for column in given[n]]
    found = torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True)
    columns = len(given[N])
    return {n: list(found[i * columns : (i + 1) * columns]) for i, n in enumerate(sorted(given))}


def carried_out(plan: StepPlan, given: Exits) -> Tensor:
    return step_loss(plan, given, InfoNCE(scale=SCALE), None, normalized_output=False)


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_equals_its_formula(case: Case, seed: int, columns: int) -> None:
    given, plan = exits(columns=columns), made(case.strategy, seed)
    ours, formula = carried_out(plan, given), case.formula(given, plan)
    torch.testing.assert_close(ours, formula, rtol=1e-7, atol=1e-7)
    got, expected = gradients(ours, given), gradients(formula, given)
    assert max(grad.abs().max() for grad in expected[N]) > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_the_embedding_output_is_trained_by_none_of_them() -> None:
    given = exits()
    for case in CASES:
        found = gradients(carried_out(made(case.strategy), given), given)
        assert all(grad.abs().max() == 0 for grad in found[0])


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("2dmse", {"alignment_weight": 1.1}),
    ("2dmse", {"temperature": 0.9}),
    ("2dmse", {"detach": False}),
    ("2dmse", {"depth_weights": "log"}),
    ("2dmse", {"alignment": "similarities"}),
    ("2dmse first code", {"alignment_weight": 0.9}),
    ("2dmse first code", {"temperature": 1.1}),
    ("2dmse first code", {"detach": True}),
    ("2dmse first code", {"depth_weights": "uniform"}),
    ("ese", {"alignment_weight": 0.9}),
    ("ese", {"temperature": 0.8}),
    ("ese", {"depth_weights": "uniform"}),
    ("ese", {"dims": K - 1}),
    ("starbucks sts", {"alignment_weight": 0.9}),
    ("starbucks sts", {"temperature": 0.4}),
    ("starbucks sts", {"temperature_in_softmax": True}),
    ("starbucks sts", {"detach": True}),
    ("starbucks sts", {"sizes": SIZES[1:]}),
    ("starbucks retrieval", {"alignment_weight": 0.9}),
    ("starbucks retrieval", {"temperature": 0.06}),
    ("starbucks retrieval", {"detach": False}),
    ("all-sizes", {"inner_weight": 0.9}),
    ("all-sizes", {"objective_weight": 0.6}),
    ("all-sizes", {"alignment_weight": 0.9}),
    ("all-sizes", {"temperature": 0.06}),
    ("all-sizes", {"similarities": "anchors"}),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_any_other_choice_misses_the_formula(name: str, change: dict[str, Any]) -> None:
    (case,) = (case for case in CASES if case.name == name)
    given = exits()
    # Layer 2 or 3 is drawn: at layer 1 most depth weights are 1.
    seed = next(s for s in range(99) if max(t.layers for t in made(case.strategy, s).terms[2:]) > 1)
    plan = made(replace(case.strategy, **change), seed)  # type: ignore[type-var]
    ours, formula = carried_out(plan, given), case.formula(given, made(case.strategy, seed))
    found, expected = gradients(ours, given), gradients(formula, given)
    moved = max((a - b).abs().max().item() for n in found for a, b in zip(found[n], expected[n], strict=True))
    assert max(moved, (ours - formula).abs().item()) > 1e-4
    if "detach" in change:
        assert (ours - formula).abs() < 1e-9, "a detach changes gradients alone"


@pytest.mark.parametrize("normalized_output", [True, False])
def test_a_pull_on_outputs_sees_unit_vectors_only_if_the_model_returns_them(normalized_output: bool) -> None:
    given = exits()
    pull = Pull((1, D), (N, D), CoordinateKL(), as_output=True)
    plan = StepPlan((), (pull,))
    ours = step_loss(plan, given, InfoNCE(), None, normalized_output)
    sides = (given[1], fixed(given[N]))
    if normalized_output:
        sides = tuple([column / column.norm(dim=1, keepdim=True) for column in side] for side in sides)
    torch.testing.assert_close(ours, references.coordinate_kl(*sides, 1.0, 1.0), rtol=1e-7, atol=1e-9)
