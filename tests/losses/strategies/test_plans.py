"""Every strategy plans exactly the sizes, weights and pulls that it documents."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.errors import UserError
from matryoshka2d.losses.strategies import (
    ESE,
    MRL,
    STRATEGIES,
    AllSizes,
    CoordinateKL,
    Full,
    Matryoshka2d,
    PcaTarget,
    Pull,
    Shape,
    SimilarityKL,
    Starbucks,
    StepPlan,
    Strategy,
    Term,
    TwoDMSE,
    make_strategy,
)
from matryoshka2d.losses.strategies.starbucks import default_pairs
from matryoshka2d.size import Size, default_dims, default_sizes

BERT, MINILM = Shape(12, 768), Shape(6, 384)


def plan(strategy: Strategy, shape: Shape = MINILM, seed: int = 0) -> StepPlan:
    return strategy.plan(shape, random.Random(seed))


def weights(made: StepPlan) -> dict[tuple[int, int], float]:
    """Return size → weight; no size may stand in a plan twice."""
    sizes = [(term.layers, term.dims) for term in made.terms]
    assert len(set(sizes)) == len(sizes)
    return {(term.layers, term.dims): term.weight for term in made.terms}


# full, mrl


def test_full_trains_the_full_size_alone() -> None:
    assert plan(Full()) == StepPlan((Term(6, 384, 1.0),))


def test_mrl_trains_every_width_of_the_last_layer_with_weight_one() -> None:
    made = plan(MRL())
    assert weights(made) == {(6, d): 1.0 for d in (8, 16, 32, 64, 128, 192, 256, 384)}
    assert made.pulls == ()


def test_mrl_trains_the_listed_widths_and_the_full_one() -> None:
    assert weights(plan(MRL((64, 16)))) == {(6, 384): 1.0, (6, 16): 1.0, (6, 64): 1.0}
    assert weights(plan(MRL((64, 384)))) == {(6, 384): 1.0, (6, 64): 1.0}


# 2dmse


@pytest.mark.parametrize("seed", range(20))
def test_2dmse_of_the_paper(seed: int) -> None:
    made = plan(TwoDMSE(), BERT, seed)
    (n,) = {term.layers for term in made.terms} - {12}
    (d,) = {term.dims for term in made.terms} - {768}
    assert 1 <= n <= 11
    assert d in default_dims(768)
    assert weights(made) == {(12, 768): 1, (n, 768): 1, (12, d): 1, (n, d): 1}
    assert made.pulls == (Pull((n, 768), (12, 768), CoordinateKL(1.0), 1.0, detach=True, as_output=False),)


@pytest.mark.parametrize("seed", range(20))
def test_2dmse_of_the_authors_first_code(seed: int) -> None:
    made = plan(TwoDMSE(variant="first-code", temperature=0.5), BERT, seed)
    (n,) = {term.layers for term in made.terms} - {12}
    (d,) = {term.dims for term in made.terms} - {768}
    assert weights(made) == {(12, 768): 1, (12, d): 1, (n, 768): 1 / n, (n, d): 1 / n}
    kl = CoordinateKL(0.5, in_softmax=True, times_temperature=True)
    assert made.pulls == (Pull((n, 768), (12, 768), kl, math.log(2 + n), detach=False),)


def test_2dmse_first_code_takes_temperature_one_by_default() -> None:
    (pull,) = plan(TwoDMSE(variant="first-code")).pulls
    assert pull.alignment == CoordinateKL(1.0, times_temperature=True)


def test_2dmse_with_all_layers_and_some_dims_divides_the_weights() -> None:
    made = plan(TwoDMSE(layers_per_step=-1, dims_per_step=-1, dims=(8, 16), depth_weights="log"))
    expected = {(6, 384): 1.0, (6, 8): 1 / 2, (6, 16): 1 / 2}
    for n in range(1, 6):
        share = 1 / (1 + math.log(n)) / 5
        expected |= {(n, 384): share, (n, 8): share / 2, (n, 16): share / 2}
    assert weights(made) == pytest.approx(expected)
    assert [(pull.student, pull.weight) for pull in made.pulls] == [((n, 384), 1 / 5) for n in range(1, 6)]


def test_2dmse_options_of_the_alignment() -> None:
    similar = plan(TwoDMSE(alignment="similarities", alignment_weight=2, detach=False)).pulls
    assert [(p.alignment, p.weight, p.detach) for p in similar] == [(SimilarityKL(0.05), 2, False)]
    assert plan(TwoDMSE(alignment="similarities", temperature=0.1)).pulls[0].alignment == SimilarityKL(0.1)
    assert plan(TwoDMSE(alignment="none")).pulls == ()
    assert plan(TwoDMSE(alignment_weight=0)).pulls == ()
    assert plan(TwoDMSE(variant="first-code", detach=True)).pulls[0].detach


@pytest.mark.parametrize(
    ("distribution", "chance"),
    [("uniform", lambda n: 1 / 5), ("shallow", lambda n: (1 / n) / (137 / 60)), ("deep", lambda n: n / 15)],
)
def test_2dmse_draws_layers_as_often_as_it_says(distribution: str, chance: object) -> None:
    strategy, rng, draws = make_strategy("2dmse", layer_distribution=distribution), random.Random(7), 4000
    seen = Counter(strategy.plan(MINILM, rng).layers()[0] for _ in range(draws))
    assert sorted(seen) == [1, 2, 3, 4, 5]
    for n in range(1, 6):
        assert seen[n] / draws == pytest.approx(chance(n), abs=0.03)


def test_2dmse_draws_every_inner_width_equally_often() -> None:
    rng, draws = random.Random(3), 3000
    drawn = (min(term.dims for term in TwoDMSE().plan(MINILM, rng).terms) for _ in range(draws))
    seen = Counter(drawn)
    assert sorted(seen) == [8, 16, 32, 64, 128, 192, 256]
    assert all(count / draws == pytest.approx(1 / 7, abs=0.03) for count in seen.values())


# ese


def test_ese_trains_every_layer_at_one_width() -> None:
    made = plan(ESE(), BERT)
    inner = {n: 1 / (1 + math.log(n)) / 11 for n in range(1, 12)}
    assert weights(made) == pytest.approx(
        {(12, 768): 1, (12, 128): 1, **{(n, 128): w for n, w in inner.items()}}
    )
    expected = [Pull((n, 128), (n, 768), PcaTarget(1.0), w) for n, w in {12: 1.0, **inner}.items()]
    assert list(made.pulls) == expected
    assert all(pull.detach and not pull.as_output for pull in made.pulls)


def test_ese_options() -> None:
    made = plan(ESE(dims=32, depth_weights="uniform", alignment_weight=0.5, temperature=2), Shape(3, 64))
    assert weights(made) == {(3, 64): 1, (3, 32): 1, (1, 32): 0.5, (2, 32): 0.5}
    assert [pull.weight for pull in made.pulls] == [0.5, 0.25, 0.25]
    assert {pull.alignment for pull in made.pulls} == {PcaTarget(2)}
    assert plan(ESE(alignment_weight=0)).pulls == ()


def test_ese_at_full_width_trains_the_full_size_once() -> None:
    assert weights(plan(ESE(dims=64), Shape(2, 64))) == {(2, 64): 1, (1, 64): 1}


def test_ese_halves_a_model_that_is_no_wider_than_128() -> None:
    assert {term.dims for term in plan(ESE(), Shape(3, 128)).terms} == {128, 64}


# starbucks

PUBLISHED = [(2, 32), (4, 64), (6, 128), (8, 256), (10, 512), (12, 768)]


def test_starbucks_trains_the_published_sizes() -> None:
    assert [(size.layers, size.dims) for size in default_pairs(12, 768)] == PUBLISHED
    assert weights(plan(Starbucks(), BERT)) == dict.fromkeys(PUBLISHED, 1.0)


@pytest.mark.parametrize("seed", [0, 1])
def test_starbucks_aligns_as_its_sts_code(seed: int) -> None:
    kl = CoordinateKL(0.3, in_softmax=False, times_temperature=True)
    expected = tuple(Pull((n, d), (12, d), kl, 1.0, detach=False) for n, d in PUBLISHED[:-1])
    assert plan(Starbucks(), BERT, seed).pulls == expected


def test_starbucks_aligns_as_its_retrieval_code() -> None:
    made = plan(Starbucks(alignment="retrieval", alignment_weight=2), BERT)
    kl = SimilarityKL(0.05)
    assert made.pulls == tuple(Pull((n, d), (12, 768), kl, 2, detach=True) for n, d in PUBLISHED[:-1])


def test_starbucks_options() -> None:
    mended = plan(Starbucks(temperature=0.5, temperature_in_softmax=True, detach=True), BERT).pulls[0]
    assert mended.alignment == CoordinateKL(0.5, in_softmax=True, times_temperature=True)
    assert mended.detach
    assert plan(Starbucks(alignment="none")).pulls == ()
    listed = plan(Starbucks((Size(2, 8), Size(6, 16), Size(6, 384))))
    assert weights(listed) == {(6, 384): 1, (2, 8): 1, (6, 16): 1}
    assert [(pull.student, pull.teacher) for pull in listed.pulls] == [((2, 8), (6, 8))]


@given(st.integers(1, 48), st.integers(1, 2048))
def test_default_pairs_rise_to_the_full_size(layers: int, width: int) -> None:
    pairs = default_pairs(layers, width)
    assert 1 <= len(pairs) <= min(6, layers)
    assert pairs[-1] == Size(layers, width)
    for small, large in pairwise(pairs):
        assert small.layers < large.layers
        assert small.dims < large.dims


# matryoshka2d of sentence-transformers


def stock_draws(seed: int, layers: int, dims: int, n_layers: int, n_dims: int) -> list[tuple[int, list[int]]]:
    """Draw layers and dims with the calls of sentence-transformers, in their order: last layer first."""
    rng = random.Random(seed)

    def draw_dims() -> list[int]:
        indices: object = range(dims)
        if 0 < n_dims < dims:
            indices = sorted(rng.sample(range(dims), n_dims))
        return list(indices)

    drawn = [(layers, draw_dims())]
    inner: object = range(layers)
    if 0 < n_layers < layers:
        inner = rng.sample(range(layers), n_layers)
    return drawn + [(layer, draw_dims()) for layer in inner]


@pytest.mark.parametrize(("n_layers", "n_dims"), [(1, 1), (2, 3), (-1, -1), (6, 5)])
@pytest.mark.parametrize("seed", range(5))
def test_matryoshka2d_draws_as_sentence_transformers_does(seed: int, n_layers: int, n_dims: int) -> None:
    widest_first = (384, 256, 64, 32, 8)
    made = plan(Matryoshka2d(widest_first, layers_per_step=n_layers, dims_per_step=n_dims), MINILM, seed)
    drawn = stock_draws(seed, 6, 5, n_layers, n_dims)
    expected = [(layer, widest_first[index]) for layer, indices in drawn for index in indices]
    assert [(term.layers, term.dims) for term in made.terms] == expected
    count = len(drawn) - 1
    assert [term.weight for term in made.terms] == [1.0 if n == 6 else 1 / count for n, _ in expected]
    kl = CoordinateKL(0.3, times_temperature=True)
    assert made.pulls == tuple(
        Pull((n, 384), (6, 384), kl, 1.0, detach=True, as_output=True) for n, _ in drawn[1:]
    )


@pytest.mark.parametrize(
    ("scheme", "weight"),
    [
        ("uniform", lambda i: 1),
        ("log", lambda i: 1 / (1 + math.log(1 + i))),
        ("linear", lambda i: 1 / (1 + i)),
    ],
)
def test_matryoshka2d_weights(scheme: str, weight: object) -> None:
    strategy = make_strategy(
        "matryoshka2d",
        dims="16,32",
        dim_weights="0.5,2",
        layers_per_step=-1,
        dims_per_step=-1,
        last_layer_weight=3,
        prior_layers_weight=0.7,
        alignment_weight=0.2,
        depth_weights=scheme,
    )
    made = plan(strategy, Shape(3, 32))
    expected = {(3, 32): 3 * 2, (3, 16): 3 * 0.5}
    for layer in range(3):
        share = weight(layer) / 3 * 0.7
        expected |= {(layer, 32): share * 2, (layer, 16): share * 0.5}
    assert weights(made) == pytest.approx(expected)
    assert [pull.weight for pull in made.pulls] == [0.2] * 3


def test_matryoshka2d_draws_the_embedding_output_and_can_leave_the_alignment_out() -> None:
    assert {plan(Matryoshka2d(), seed=seed).layers()[0] for seed in range(60)} == {0, 1, 2, 3, 4, 5}
    assert plan(Matryoshka2d(temperature=0)).pulls == ()


# all-sizes


def test_all_sizes_trains_the_full_size_and_lets_it_teach_the_others() -> None:
    made = plan(AllSizes())
    others = [(size.layers, size.dims) for size in default_sizes(6, 384)][:-1]
    assert len(others) == 47
    assert weights(made) == pytest.approx({(6, 384): 1.0, **dict.fromkeys(others, 0.1 / 47)})
    assert [pull.student for pull in made.pulls] == others
    for pull in made.pulls:
        assert pull.weight == pytest.approx(3 / 47)
        assert (pull.teacher, pull.alignment) == ((6, 384), SimilarityKL(0.05, all_pairs=True))
        assert (pull.detach, pull.as_output) == (True, False)


def test_all_sizes_lets_a_frozen_teacher_teach_every_size_and_the_full_one_with_a_weight_of_its_own() -> None:
    shape = Shape(6, 384, has_teacher=True)
    made = plan(AllSizes(full_alignment_weight=0.7), shape)
    assert weights(made) == weights(plan(AllSizes()))
    assert [pull.student for pull in made.pulls] == [(6, 384), *(p.student for p in plan(AllSizes()).pulls)]
    assert {pull.teacher for pull in made.pulls} == {None}
    assert [pull.weight for pull in made.pulls] == pytest.approx([0.7, *[3 / 47] * 47])
    assert plan(AllSizes(full_alignment_weight=0, alignment_weight=0), shape).pulls == ()


def test_all_sizes_options() -> None:
    strategy = AllSizes((Size(1, 8), Size(6, 384)), 0.6, 0.25, 2.0, temperature=0.1, similarities="anchors")
    made = plan(strategy)
    assert weights(made) == pytest.approx({(6, 384): 1, (1, 8): 0.6 * 0.25})
    assert made.pulls == (Pull((1, 8), (6, 384), SimilarityKL(0.1), 0.6 * 2.0),)
    assert weights(plan(AllSizes(objective_weight=0))) == {(6, 384): 1}
    assert plan(AllSizes(alignment_weight=0)).pulls == ()
    assert plan(AllSizes(inner_weight=0)) == StepPlan((Term(6, 384),))


# what all of them keep

SHAPES = st.builds(Shape, st.integers(1, 30), st.integers(2, 1100))


@pytest.mark.parametrize("name", STRATEGIES)
@given(shape=SHAPES, seed=st.integers(0, 10**6))
def test_any_plan_stays_within_the_model(name: str, shape: Shape, seed: int) -> None:
    made = plan(make_strategy(name), shape, seed)
    assert made == plan(make_strategy(name), shape, seed)
    lowest = 0 if name == "matryoshka2d" else 1
    ends = [end for pull in made.pulls for end in (pull.student, pull.teacher)]
    for layers, dims in [*weights(made), *ends]:
        assert lowest <= layers <= shape.layers
        assert 1 <= dims <= shape.dims
    assert all(weight > 0 for weight in weights(made).values())
    assert all(pull.student != pull.teacher for pull in made.pulls)
    if name != "matryoshka2d":
        assert weights(made)[(shape.layers, shape.dims)] == 1


@given(
    shape=st.builds(Shape, st.integers(2, 30), st.integers(16, 1100)),
    seed=st.integers(0, 10**6),
    layers=st.integers(1, 40),
    dims=st.integers(1, 12),
)
def test_the_total_weight_of_2dmse_does_not_depend_on_how_much_is_drawn(
    shape: Shape, seed: int, layers: int, dims: int
) -> None:
    made = plan(TwoDMSE(layers_per_step=layers, dims_per_step=dims), shape, seed)
    assert sum(weights(made).values()) == pytest.approx(4)
    assert sum(pull.weight for pull in made.pulls) == pytest.approx(1)
    assert len(made.layers()) == 1 + min(layers, shape.layers - 1)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (MRL((8, 385)), "385 dims are not possible: the model has 384 dims"),
        (TwoDMSE(dims=(0,)), "0 dims are not possible"),
        (ESE(dims=500), "500 dims are not possible"),
        (Matryoshka2d(dims=(8, 768)), "768 dims are not possible"),
        (Starbucks((Size(7, 8),)), "size 7x8 is too deep: the model has 6 layers"),
        (AllSizes((Size(1, 400),)), "size 1x400 is too wide: the model has 384 dims"),
    ],
)
def test_a_size_that_the_model_lacks_is_one_clear_line(strategy: Strategy, words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan(strategy)


def test_cyclic_takes_every_inner_layer_in_turn() -> None:
    from matryoshka2d.losses.strategies.base import StepRandom

    strategy = make_strategy("2dmse", layer_distribution="cyclic")
    plans = [strategy.plan(Shape(5, 32), StepRandom(7, step)) for step in range(8)]
    inner = [min(term.layers for term in plan.terms) for plan in plans]
    assert inner == [1, 2, 3, 4, 1, 2, 3, 4]


def test_the_chance_of_a_step_is_that_of_its_seed_and_number() -> None:
    from matryoshka2d.losses.strategies.base import StepRandom

    assert StepRandom(3, 5).random() == random.Random("3/5").random()
