"""Measuring a model: its test grids, the scores that intervals are made of, and its score on dev sets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryoshka2d import ElasticEncoder, Grid, Size, UserError
from matryoshka2d.data import read_mixture, text_columns
from matryoshka2d.evaluation import (
    Exits,
    RetrievalSet,
    StsSet,
    bootstrap_means,
    bootstrap_spearman,
    encode_sts,
    read_retrieval,
    read_sts,
    retrieval_details,
    retrieval_scores,
)
from matryoshka2d.files import staged_file
from matryoshka2d.inference import open_exits
from matryoshka2d.size import parse_sizes
from matryoshka2d_reproduction.keys import key_of_texts
from matryoshka2d_reproduction.models import ModelStore, StoredModel
from matryoshka2d_reproduction.results import Resampled, Results, read_scores, scores_file
from matryoshka2d_reproduction.runs import Run

STS = "sts"
"""The task of all STS sets together; each retrieval set is a task of its own."""

RESAMPLES = 1000
"""How often pairs are drawn anew, unless a report asks for another number."""

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


def read_test_sets(store: ModelStore) -> TestSets:
    """Read the test sets of the store's plan."""
    sts: list[StsSet] = []
    for name in store.plan.sts:
        sts += read_sts(store.find(name))
    return TestSets(sts, [read_retrieval(store.find(name)) for name in store.plan.retrieval])


def load(made: StoredModel, precision: str) -> Exits:
    """Load the model of a run, to be measured in some precision."""
    encoder = ElasticEncoder(made.path, pooling=made.pooling)
    return encoder if precision == "fp32" else open_exits(encoder, precision)


def measure(store: ModelStore, run: Run, made: StoredModel, sets: TestSets) -> Measured:
    """Measure a model on the test sets at the sizes of the plan, in the plan's precision."""
    method = store.plan.methods[run.method]
    encoder = load(made, store.plan.precision)
    sizes = [run.size] if run.size else list(store.plan.sizes)
    cut = method.cut or "prefix"
    fit = fit_texts(store, run) if cut == "pca" else []
    grids: dict[str, Grid] = {}
    scores: dict[str, dict[str, NDArray[np.float32]]] = {}
    gold = {}
    if sets.sts:
        encoded = encode_sts(encoder, sets.sts, sizes=sizes, fit_texts=fit)
        cosines = encoded.cosines(cut=cut, seed=run.seed)
        grids[STS] = encoded.grid_of(cosines, cut=cut, name=run.method)
        scores[STS] = {name: values.astype(np.float32) for name, values in cosines.items()}
        gold = {one.name: one.gold for one in sets.sts}
    for one in sets.retrieval:
        found = retrieval_scores(encoder, one, sizes=sizes, cuts=[cut], fit_texts=fit, seed=run.seed)[cut]
        table = np.stack(list(found.values()), axis=1)
        means = tuple((100 * table.mean(axis=0)).tolist())
        details = retrieval_details(encoder, [one])
        grids[one.name] = Grid(tuple(found), {one.name: means}, "ndcg@10", cut, run.method, details).noted()
        scores[one.name] = {one.name: table.astype(np.float32)}
    return Measured(grids, scores, gold)


def fit_texts(store: ModelStore, run: Run) -> list[str]:
    """Return training texts on which a PCA cut is fitted; none where nothing is trained."""
    if not run.data:
        return []
    data = store.plan.data[run.data]
    texts: dict[str, None] = {}
    for rows in read_mixture(store.files(data), dict(data.columns) or None, _FIT_ROWS).datasets.values():
        for column in text_columns(rows.column_names):
            texts.update(dict.fromkeys(rows[column][:]))
    return list(texts)


# --- dev -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DevSets:
    """What options are chosen on: no pair of it is a test pair."""

    sts: Sequence[StsSet]
    captions: Sequence[RetrievalSet]


def read_dev_sets(store: ModelStore, tested: Sequence[StsSet]) -> DevSets:
    """Read the dev sets of a plan, without the pairs that are tested."""
    plan = store.plan
    sts = read_dev_sts(store.find(plan.dev_sts), tested or None) if plan.dev_sts else []
    captions = [read_dev_captions(store.find(plan.dev_captions))] if plan.dev_captions else []
    return DevSets(sts, captions)


def dev_scores(store: ModelStore, run: Run, made: StoredModel, sets: DevSets) -> dict[str, float]:
    """Return dev set → score x100, averaged over the sizes that the choice is judged at."""
    choice = store.plan.methods[run.method].choose
    judged: Sequence[Size] = parse_sizes(choice.sizes) if choice and choice.sizes else store.plan.sizes
    sizes = [run.size] if run.size else list(judged)
    encoder = load(made, store.plan.precision)
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
    sts = [[s.name, key_of_texts((*s.sentence1, *s.sentence2)), s.gold.tolist()] for s in sets.sts]
    others = sets.retrieval if isinstance(sets, TestSets) else sets.captions
    retrieval = [
        [r.name, key_of_texts(r.corpus.values()), key_of_texts(r.queries.values()), dict(r.relevance)]
        for r in others
    ]
    return [sts, retrieval]


# --- resampled scores ----------------------------------------------------------------------------------


def resampled_scores(
    key: str, task: str, results: Results, cache: str | Path, resamples: int = RESAMPLES
) -> Resampled:
    """Return the scores of a run on all pairs and on resamples of them: means over the sets of a task.

    Parameters
    ----------
    key
        The key of the run's result.
    task
        One of its tasks.
    results
        The results of its plan, which keep some resamples of every run.
    cache
        Where a plan's runs leave the score of every pair: where it is there, the pairs are drawn as often as
        asked; else as often as was published, if that is less.
    resamples
        How often pairs are drawn. The first hundred of a thousand are those that a hundred would be.
    """
    file = scores_file(cache, key)
    if not file.is_file():
        kept = results.resampled(key, task)
        return Resampled(kept.score, kept.deviations[:resamples])
    drawn = Path(cache) / "resampled" / f"{key}-{task}.npz"
    if not drawn.is_file() or len(_read_resampled(drawn).deviations) < resamples:
        _write_resampled(drawn, _resampled(file, task, resamples))
    found = _read_resampled(drawn)
    return Resampled(found.score, found.deviations[:resamples])


def _resampled(file: Path, task: str, resamples: int) -> Resampled:
    scores, gold = read_scores(file, task)
    made = (
        bootstrap_spearman(scores, gold, resamples=resamples)
        if task == STS
        else bootstrap_means(scores, resamples=resamples)
    )
    score, draws = made.of()
    return Resampled(score[0], (draws - score)[:, 0])


def _write_resampled(path: Path, one: Resampled) -> None:
    """Write deviations in half precision: they are rounded by less than 0.001 points."""
    with staged_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, score=one.score, deviations=one.deviations.astype(np.float16))


def _read_resampled(path: Path) -> Resampled:
    with np.load(path) as arrays:
        return Resampled(arrays["score"], arrays["deviations"].astype(np.float64))


# --- dev sets: what hyper-parameters may be chosen on ----------------------------------------------------


DEV_FILES = ("stsb.tsv", "sickr.tsv")
"""The sets of the paper that have a dev split."""

_NOT_A_WORD = re.compile(r"[^\w]+")


def folded(left: str, right: str) -> frozenset[str]:
    """Return a pair without its order, case, spacing and punctuation: how pairs are told to be the same.

    >>> folded("A cat.", "one dog") == folded("One  dog", "a cat")
    True
    """
    return frozenset(" ".join(_NOT_A_WORD.split(text.casefold())).strip() for text in (left, right))


def pairs_of(sets: Iterable[StsSet]) -> set[frozenset[str]]:
    """Return the folded pairs of some sets."""
    return {
        folded(left, right) for one in sets for left, right in zip(one.sentence1, one.sentence2, strict=True)
    }


def without_pairs(one: StsSet, barred: set[frozenset[str]]) -> StsSet:
    """Return a set without the pairs that are barred.

    Raises
    ------
    UserError
        If nothing that varies is left.
    """
    kept = [
        row
        for row in zip(one.sentence1, one.sentence2, one.gold.tolist(), strict=True)
        if folded(row[0], row[1]) not in barred
    ]
    left, right, gold = zip(*kept, strict=True) if kept else ((), (), ())
    return StsSet(one.name, tuple(left), tuple(right), np.array(gold, dtype=np.float64))


def read_dev_sts(
    source: str | os.PathLike[str], tested: Sequence[StsSet] | None = None, *, split: str = "dev"
) -> list[StsSet]:
    """Read the dev pairs of STS-B and SICK-R, or of one file, that are in no test set.

    Parameters
    ----------
    source
        The folder of the seven STS sets, ``stsb.tsv`` and ``sickr.tsv`` among them; or one file with a dev
        split of its own, as STS-B in another language.
    tested
        The sets that results are reported on; the test rows of the source by default.
    split
        ``dev``, or ``train`` for more pairs where nothing is trained on them.

    Returns
    -------
    list of StsSet
        ``stsb-dev`` and ``sickr-dev``, or the file's own.

    Raises
    ------
    UserError
        If a file is missing, or every pair is a test pair.
    """
    place = Path(source)
    files = [place / name for name in DEV_FILES] if place.is_dir() else [place]
    barred = pairs_of(read_sts(place) if tested is None else tested)
    sets = []
    for one in read_sts(files, split=split):
        kept = without_pairs(one, barred)
        sets.append(StsSet(f"{one.name}-{split}", kept.sentence1, kept.sentence2, kept.gold))
    return sets


def read_dev_captions(path: str | os.PathLike[str], *, groups: int = 500) -> RetrievalSet:
    """Make a retrieval task of captions held out from training: find the other captions of the same picture.

    Parameters
    ----------
    path
        JSONL with ``anchor``, ``positive`` and ``group``: rows of one group describe one picture.
    groups
        How many pictures, evenly spaced over the file. The default has a standard error of about a point;
        raise it to tell closer methods apart.

    Returns
    -------
    RetrievalSet
        ``captions-dev``: the first caption of each picture asks, the others answer.

    Raises
    ------
    UserError
        If the file has no groups of two captions.
    """
    file = Path(path)
    captions: dict[str, dict[str, None]] = {}
    for number, line in enumerate(_lines(file), start=1):
        try:
            row = json.loads(line)
            texts = [row["anchor"], row["positive"], row["group"]]
        except (ValueError, TypeError, KeyError):
            texts = []
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{file} line {number}: expected the texts anchor, positive and group")
        captions.setdefault(texts[2], {}).update(dict.fromkeys(texts[:2]))
    pictures = {group: list(texts) for group, texts in captions.items() if len(texts) > 1}
    if not pictures:
        raise UserError(f"{file} has no group of two captions: expected rows that share a group")
    chosen = np.linspace(0, len(pictures) - 1, min(groups, len(pictures))).astype(int)
    names = [list(pictures)[i] for i in chosen]
    corpus = {f"{name}/{i}": text for name in names for i, text in enumerate(pictures[name][1:])}
    queries = {name: pictures[name][0] for name in names}
    relevance = {name: {f"{name}/{i}": 1 for i in range(len(pictures[name]) - 1)} for name in names}
    return RetrievalSet("captions-dev", corpus, queries, relevance)


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: expected a JSONL file of captions") from error
