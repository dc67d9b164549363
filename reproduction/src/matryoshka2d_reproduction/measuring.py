"""Measuring a model: its test grids with what statistics need, and its dev score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.data import read_mixture, text_columns
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.evaluation import (
    Grid,
    RetrievalSet,
    StsSet,
    encode_sts,
    read_retrieval,
    read_sts,
    retrieval_scores,
)
from matryoshka2d.evaluation.exits import Exits
from matryoshka2d.inference.engine_exits import open_exits
from matryoshka2d.size import Size, parse_sizes
from matryoshka2d_reproduction.dev_sets import read_dev_captions, read_dev_sts
from matryoshka2d_reproduction.units import Unit
from matryoshka2d_reproduction.workshop import Made, Workshop

STS = "sts"
"""The task of all STS sets together; each retrieval set is a task of its own."""

_FIT_ROWS = 2000


@dataclass(frozen=True)
class Measured:
    """What one model scored.

    Parameters
    ----------
    grids
        Task → grid.
    scores
        Task → set → float32 [pairs, sizes]: the cosine of each pair, or the nDCG of each query.
    gold
        Set of sentence pairs → float64 [pairs].
    """

    grids: Mapping[str, Grid]
    scores: Mapping[str, Mapping[str, NDArray[np.float32]]]
    gold: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class TestSets:
    """The test sets of a plan.

    Parameters
    ----------
    sts
        Sets of sentence pairs.
    retrieval
        Sets of queries and documents.
    """

    __test__ = False  # not a test, whatever pytest thinks of the name

    sts: Sequence[StsSet]
    retrieval: Sequence[RetrievalSet]


def read_test_sets(shop: Workshop) -> TestSets:
    """Read the test sets of the workshop's plan."""
    sts: list[StsSet] = []
    for name in shop.plan.sts:
        sts += read_sts(shop.find(name))
    return TestSets(sts, [read_retrieval(shop.find(name)) for name in shop.plan.retrieval])


def load(made: Made, precision: str) -> Exits:
    """Load the model of a unit, to be measured in some precision."""
    encoder = ElasticEncoder(made.path, pooling=made.pooling)
    return encoder if precision == "fp32" else open_exits(encoder, precision)


def measure(shop: Workshop, unit: Unit, made: Made, sets: TestSets) -> Measured:
    """Measure a model on the test sets at the sizes of the plan, in the plan's precision."""
    method = shop.plan.methods[unit.method]
    encoder = load(made, shop.plan.precision)
    sizes = [unit.size] if unit.size else list(shop.plan.sizes)
    cut = method.cut or "prefix"
    fit = fit_texts(shop, unit) if cut == "pca" else []
    grids: dict[str, Grid] = {}
    scores: dict[str, dict[str, NDArray[np.float32]]] = {}
    gold = {}
    if sets.sts:
        encoded = encode_sts(encoder, sets.sts, sizes=sizes, fit_texts=fit)
        cosines = encoded.cosines(cut=cut, seed=unit.seed)
        grids[STS] = encoded.grid_of(cosines, cut=cut, name=unit.method)
        scores[STS] = {name: values.astype(np.float32) for name, values in cosines.items()}
        gold = {one.name: one.gold for one in sets.sts}
    for one in sets.retrieval:
        found = retrieval_scores(encoder, one, sizes=sizes, cuts=[cut], fit_texts=fit, seed=unit.seed)[cut]
        table = np.stack(list(found.values()), axis=1)
        means = tuple((100 * table.mean(axis=0)).tolist())
        grids[one.name] = Grid(tuple(found), {one.name: means}, "ndcg@10", cut, unit.method)
        scores[one.name] = {one.name: table.astype(np.float32)}
    return Measured(grids, scores, gold)


def fit_texts(shop: Workshop, unit: Unit) -> list[str]:
    """Return training texts on which a PCA cut is fitted; none where nothing is trained."""
    if not unit.data:
        return []
    data = shop.plan.data[unit.data]
    texts: dict[str, None] = {}
    for rows in read_mixture(shop.files(data), dict(data.columns) or None, _FIT_ROWS).datasets.values():
        for column in text_columns(rows.column_names):
            texts.update(dict.fromkeys(rows[column][:]))
    return list(texts)


# --- dev -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DevSets:
    """What options are chosen on: no pair of it is a test pair."""

    sts: Sequence[StsSet]
    captions: Sequence[RetrievalSet]


def read_dev_sets(shop: Workshop, tested: Sequence[StsSet]) -> DevSets:
    """Read the dev sets of a plan, without the pairs that are tested."""
    plan = shop.plan
    sts = read_dev_sts(shop.find(plan.dev_sts), tested or None) if plan.dev_sts else []
    captions = [read_dev_captions(shop.find(plan.dev_captions))] if plan.dev_captions else []
    return DevSets(sts, captions)


def dev_scores(shop: Workshop, unit: Unit, made: Made, sets: DevSets) -> dict[str, float]:
    """Return dev set → score x100, averaged over the sizes that the choice is judged at."""
    choice = shop.plan.methods[unit.method].choose
    judged: Sequence[Size] = parse_sizes(choice.sizes) if choice and choice.sizes else shop.plan.sizes
    sizes = [unit.size] if unit.size else list(judged)
    encoder = load(made, shop.plan.precision)
    scores: dict[str, float] = {}
    if sets.sts:
        grid = encode_sts(encoder, sets.sts, sizes=sizes).grid()
        scores |= {name: grid.mean_over_sizes(name) for name in grid.sets}
    for one in sets.captions:
        found = retrieval_scores(encoder, one, sizes=sizes)["prefix"]
        scores[one.name] = float(100 * np.mean([values.mean() for values in found.values()]))
    return {name: round(score, 4) for name, score in scores.items()}


def sets_key(sets: TestSets | DevSets) -> list[Any]:
    """Return what sets are made of, for keys."""
    from matryoshka2d_reproduction.keys import key_of_texts

    sts = [[s.name, key_of_texts((*s.sentence1, *s.sentence2)), s.gold.tolist()] for s in sets.sts]
    others = sets.retrieval if isinstance(sets, TestSets) else sets.captions
    retrieval = [
        [r.name, key_of_texts(r.corpus.values()), key_of_texts(r.queries.values()), dict(r.relevance)]
        for r in others
    ]
    return [sts, retrieval]


def words_of(sets: TestSets | DevSets) -> int:
    """Return how many words sets hold: about how long it takes to encode them."""
    texts = [text for one in sets.sts for text in (*one.sentence1, *one.sentence2)]
    for one in sets.retrieval if isinstance(sets, TestSets) else sets.captions:
        texts += [*one.corpus.values(), *(one.queries[query] for query in one.judged)]
    return sum(len(text.split()) for text in texts)
