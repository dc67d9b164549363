"""Cross-exit training: what it adds to a plan, and what the added parts are, against written-out formulas."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.losses.elastic_loss import ElasticLoss, loss_parts
from matryoshka2d.losses.objectives import Distillation, InfoNCE
from matryoshka2d.losses.objectives.distillation import batch_similarity_kl
from matryoshka2d.losses.strategies import STRATEGIES, make_strategy
from matryoshka2d.losses.strategies.alignment import CoordinateKL, SimilarityKL
from matryoshka2d.losses.strategies.base import Pull, Shape, StepPlan, Term
from matryoshka2d.losses.strategies.cross_exit import check_cross_exit, with_cross_exit
from tests import tiny
from tests.loss_cases import step_loss

SHAPE = Shape(3, 8)


def exits(columns: int, rows: int = 4) -> dict[int, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        n: [torch.randn(rows, 8, generator=generator).requires_grad_() for _ in range(columns)]
        for n in (1, 2, 3)
    }


def test_every_inner_term_and_similarity_pull_is_there_once_more() -> None:
    kl = SimilarityKL()
    plan = StepPlan(
        (Term(3, 8), Term(1, 4, 0.5), Term(0, 8)),
        (Pull((2, 8), (3, 8), kl, 2.0), Pull((1, 8), (3, 8), CoordinateKL()), Pull((3, 8), None, kl)),
    )
    crossed = with_cross_exit(plan, SHAPE, 3.0)
    assert crossed.terms == (*plan.terms, Term(1, 4, 1.5, documents=3))
    assert crossed.pulls == (*plan.pulls, Pull((2, 8), (3, 8), kl, 6.0, documents=3))


def test_the_full_depth_is_read_even_where_nothing_else_trains_it() -> None:
    assert with_cross_exit(StepPlan((Term(1, 4),)), SHAPE, 1.0).layers() == (1, 3)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("full", "mrl")])
def test_every_strategy_with_inner_exits_gets_some(name: str) -> None:
    shape = Shape(12, 768)
    plans = [make_strategy(name).plan(shape, random.Random(step)) for step in range(8)]
    crossed = [with_cross_exit(plan, shape, 1.0) for plan in plans]
    assert any(term.documents == 12 for plan in crossed for term in plan.terms)
    assert [with_cross_exit(plan, shape, 0.0) for plan in plans] == plans


def test_queries_of_the_inner_exit_meet_documents_of_the_last_one() -> None:
    given = exits(3)
    (part,) = loss_parts(StepPlan((Term(1, 4, 0.5, documents=3),)), given, InfoNCE(), None, False)
    queries = F.normalize(given[1][0][:, :4], dim=-1)
    documents = F.normalize(torch.cat([given[3][1], given[3][2]])[:, :4], dim=-1)
    expected = F.cross_entropy(20 * queries @ documents.T, torch.arange(4))
    assert (part.names, part.weight) == (("cross_exit_loss/1x4",), 0.5)
    torch.testing.assert_close(part.values, expected[None])
    part.values.sum().backward()
    assert given[1][0].grad is not None
    assert all(column.grad is None for column in (*given[1][1:], *given[3])), "the index stays where it is"


def test_a_pull_compares_the_mixed_similarities_with_the_teachers() -> None:
    given = exits(2)
    plan = StepPlan((Term(3, 8),), (Pull((2, 4), (3, 8), SimilarityKL(0.1), documents=3),))
    part = list(loss_parts(plan, given, InfoNCE(), None, False))[-1]
    ours = F.normalize(given[2][0][:, :4], dim=-1) @ F.normalize(given[3][1][:, :4], dim=-1).T / 0.1
    theirs = F.normalize(given[3][0], dim=-1) @ F.normalize(given[3][1], dim=-1).T / 0.1
    expected = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="batchmean", log_target=True)
    torch.testing.assert_close(part.values, expected[None])


def test_of_plain_texts_every_other_one_is_a_document() -> None:
    given = exits(1, rows=5)
    teacher = torch.randn(5, 1, 6, generator=torch.Generator().manual_seed(1))
    loss = step_loss(StepPlan((Term(1, 8, documents=3),)), given, Distillation(), teacher, False)
    mixed = given[3][0].detach().clone()
    mixed[::2] = given[1][0][::2].detach()
    torch.testing.assert_close(loss, batch_similarity_kl(mixed, teacher[:, 0], 0.05))
    loss.backward()
    gradient = given[1][0].grad
    assert gradient is not None and bool((gradient[1::2] == 0).all()) and bool((gradient[::2] != 0).any())


def test_the_loss_of_a_model_is_the_sum_of_its_plan(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu").eval()
    columns = [encoder.preprocess(tiny.TEXTS), encoder.preprocess(list(reversed(tiny.TEXTS)))]
    plain, crossed = (ElasticLoss(encoder, strategy="all-sizes", cross_exit=w) for w in (0.0, 2.0))
    given = {n: [encoder.exit_vectors(c, [n])[n] for c in columns] for n in range(1, encoder.depth + 1)}
    added = [part for part in crossed.plan().terms if part.documents is not None]
    expected = step_loss(crossed.plan(), given, InfoNCE(), None, encoder.ends_in_normalize)
    torch.testing.assert_close(crossed(columns), expected)
    assert added and crossed(columns).item() > plain(columns).item()


def test_a_negative_weight_is_said_in_one_line(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    with pytest.raises(UserError, match="cross_exit is -1"):
        ElasticLoss(encoder, cross_exit=-1.0)


def test_a_strategy_without_inner_exits_is_said_in_one_line() -> None:
    check_cross_exit(0.0, "mrl", trains_inner=False)
    check_cross_exit(1.0, "2dmse", trains_inner=True)
    with pytest.raises(UserError, match="strategy 'mrl' trains no inner exit") as raised:
        check_cross_exit(1.0, "mrl", trains_inner=False)
    assert "\n" not in str(raised.value)
