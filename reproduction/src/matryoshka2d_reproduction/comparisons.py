"""Comparisons: what the results of a plan say, with intervals, as JSON values that a report reads.

An interval is computed once and then kept in ``intervals.parquet``, under a key of the runs it is of and of
what it asks: from a thousand resamples where the score of every pair is at hand, else from those that are
published. One of more resamples is never replaced by one of fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats

from matryoshka2d import Grid, Size, UserError
from matryoshka2d.evaluation import LEVEL, MARGIN, Intervals, Replicates, compare, score_intervals, share_of
from matryoshka2d.size import parse_sizes
from matryoshka2d_reproduction.keys import key_of
from matryoshka2d_reproduction.measuring import RESAMPLES, resampled_scores
from matryoshka2d_reproduction.plan import KEEPS
from matryoshka2d_reproduction.results import (
    INTERVALS_FILE,
    PUBLISHED_RESAMPLES,
    Result,
    Results,
    read_table,
    scores_file,
    write_table,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Where methods can be compared: one backbone, judged on one task, and trained on the same data.

    Where every method of a plan has one data set, they are compared across them: the data tell them apart.
    """

    backbone: str
    data: tuple[str, ...]
    task: str

    def __str__(self) -> str:
        return ", ".join(part for part in (self.backbone, " and ".join(self.data), self.task) if part)


@dataclass(frozen=True)
class MethodRuns:
    """All runs of one method at one place.

    Parameters
    ----------
    method
        Its name.
    seeds
        Seeds that every size has, ascending.
    sizes
        Sizes, ascending.
    grids
        One grid over all sizes for each seed.
    parts
        For each seed the results that hold its sizes: one, or one a size for separate models.
    """

    method: str
    seeds: tuple[int, ...]
    sizes: tuple[Size, ...]
    grids: tuple[Grid, ...]
    parts: tuple[tuple[Result, ...], ...]

    def mean_grid(self) -> Grid:
        """Return the means over seeds."""
        first = self.grids[0]
        scores = {
            name: tuple(np.mean([grid.scores[name] for grid in self.grids], axis=0).tolist())
            for name in first.sets
        }
        return Grid(first.sizes, scores, first.metric, first.cut, self.method)

    def scores(self, sizes: Sequence[Size] | None = None) -> Floats:
        """Return float64 [seeds, sizes]: means over the sets, at some sizes or at all."""
        tables = [grid.values() for grid in self.grids]
        return np.array([[table[size] for size in sizes or self.sizes] for table in tables])

    def total(self, name: str) -> float:
        """Return the mean over seeds of a cost, summed over the models of a seed."""
        spent = [sum(float(r.facts.get("cost", {}).get(name, 0.0)) for r in part) for part in self.parts]
        return float(np.mean(spent))

    def peak(self, name: str) -> float:
        """Return the largest value of a cost."""
        return max(float(r.facts.get("cost", {}).get(name, 0.0)) for part in self.parts for r in part)


def places(results: Sequence[Result]) -> list[Place]:
    """Return every place of some results; what is untrained belongs to all data."""
    return [
        Place(backbone, data, task)
        for backbone in dict.fromkeys(result.backbone for result in results)
        for data in _data_sets([r for r in results if r.backbone == backbone])
        for task in dict.fromkeys(task for r in results if r.backbone == backbone for task in r.grids)
    ]


def _data_sets(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return the data sets that are compared together: all of them where no method was trained on two."""
    pairs = dict.fromkeys((result.method, result.data) for result in results if result.data)
    names = tuple(dict.fromkeys(data for _, data in pairs))
    if len(pairs) == len({method for method, _ in pairs}):
        return [names]
    return [(name,) for name in names]


def runs_at(results: Iterable[Result], place: Place) -> dict[str, MethodRuns]:
    """Return method → its runs at a place; seeds that lack a size that others have are left out."""
    by_method: dict[str, dict[int, list[Result]]] = {}
    for result in results:
        here = result.backbone == place.backbone and result.data in (*place.data, "")
        if here and place.task in result.grids:
            by_method.setdefault(result.method, {}).setdefault(result.seed, []).append(result)
    return {method: _runs(method, by_seed, place.task) for method, by_seed in by_method.items()}


def _runs(method: str, by_seed: Mapping[int, list[Result]], task: str) -> MethodRuns:
    parts = {
        seed: tuple(sorted(results, key=lambda r: r.grids[task].sizes)) for seed, results in by_seed.items()
    }
    sizes = {seed: [size for r in part for size in r.grids[task].sizes] for seed, part in parts.items()}
    most = max(map(len, sizes.values()))
    whole = sorted(seed for seed, own in sizes.items() if len(own) == most)
    return MethodRuns(
        method,
        tuple(whole),
        tuple(sizes[whole[0]]),
        tuple(_joined(parts[seed], task, method) for seed in whole),
        tuple(parts[seed] for seed in whole),
    )


def _joined(part: Sequence[Result], task: str, method: str) -> Grid:
    grids = [result.grids[task] for result in part]
    scores = {name: tuple(s for grid in grids for s in grid.scores[name]) for name in grids[0].sets}
    sizes = tuple(size for grid in grids for size in grid.sizes)
    return Grid(sizes, scores, grids[0].metric, grids[0].cut, method)


# --- intervals -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """What an interval is of: the scores of a method, its lead over another, or its share of another's.

    Parameters
    ----------
    kind
        ``score``, ``lead`` or ``share``: percent of the full size of the other.
    task
        Which task is asked about.
    method, other
        Whose runs; no other for scores.
    sizes
        At which sizes of the method.
    """

    kind: str
    task: str
    method: MethodRuns
    other: MethodRuns | None
    sizes: tuple[Size, ...]

    @property
    def key(self) -> str:
        """The key of everything that the answer depends on, but for the number of resamples."""
        runs = [one and [[r.key for r in part] for part in one.parts] for one in (self.method, self.other)]
        seeds = [one and list(one.seeds) for one in (self.method, self.other)]
        return key_of("interval", self.kind, self.task, runs, seeds, list(map(str, self.sizes)))

    def answer(self, replicates: Callable[[MethodRuns, str], Replicates]) -> tuple[Intervals, int]:
        """Compute the intervals, and say from how many resamples."""
        own = replicates(self.method, self.task)
        left = own.take([self.method.sizes.index(size) for size in self.sizes])
        if self.other is None:
            return score_intervals(left), _resamples(left)
        right = replicates(self.other, self.task)
        count = min(_resamples(left), _resamples(right))
        left, right = _first(left, count), _first(right, count)
        if self.kind == "share":
            return share_of(left, right.take([len(self.other.sizes) - 1])), count
        right = right.take([self.other.sizes.index(size) for size in self.sizes])
        return compare(left, right, paired_seeds=self.method.seeds == self.other.seeds), count


def _resamples(replicates: Replicates) -> int:
    return len(next(iter(replicates.draws.values())))


def _first(replicates: Replicates, count: int) -> Replicates:
    return Replicates(replicates.scores, {name: draws[:count] for name, draws in replicates.draws.items()})


@dataclass
class IntervalBook:
    """The intervals of a plan's results: those that are kept, and new ones as they are asked for.

    Parameters
    ----------
    results
        The results of the plan.
    cache
        Where the runs of a plan leave the score of every pair.
    resamples
        How often the pairs are drawn for a new interval, where the scores are there.
    """

    results: Results
    cache: str | Path = "cache"
    resamples: int = RESAMPLES
    asked: dict[str, tuple[Question, Intervals, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._kept = _read_intervals(self.results.folder / INTERVALS_FILE)

    def __call__(self, question: Question) -> Intervals:
        """Return the intervals of a question."""
        key = question.key
        if key not in self.asked:
            found, count = self._kept.get(key, (None, 0))
            if found is None or count < self._available(question):
                found, count = question.answer(self._replicates)
            self.asked[key] = question, found, count
        return self.asked[key][1]

    def fewest_resamples(self) -> int:
        """Return the smallest number of resamples that an interval was computed from."""
        return min((count for *_, count in self.asked.values()), default=self.resamples)

    def save(self) -> None:
        """Keep the intervals that were asked for."""
        rows = [row for key, asked in self.asked.items() for row in _interval_rows(key, *asked)]
        write_table(self.results.folder / INTERVALS_FILE, pa.Table.from_pylist(rows, _INTERVALS))

    def _available(self, question: Question) -> int:
        """Return from how many resamples a question could be answered now."""
        runs = [r for one in (question.method, question.other) if one for part in one.parts for r in part]
        if all(scores_file(self.cache, run.key).is_file() for run in runs):
            return self.resamples
        return min(self.resamples, PUBLISHED_RESAMPLES)

    def _replicates(self, runs: MethodRuns, task: str) -> Replicates:
        """Return the replicates of a method: seeds x sizes, means over the sets of a task."""
        scores, draws = [], []
        for part in runs.parts:
            found = [resampled_scores(r.key, task, self.results, self.cache, self.resamples) for r in part]
            count = min(len(one.deviations) for one in found)
            scores.append(np.concatenate([one.score for one in found]))
            draws.append(np.concatenate([one.score + one.deviations[:count] for one in found], axis=1))
        count = min(map(len, draws))
        stacked = np.stack([one[:count] for one in draws], axis=1)
        return Replicates({_MEAN: np.array(scores)}, {_MEAN: stacked})


_MEAN = "mean of sets"

_FIGURES = ("estimate", "low", "high", "lower", "upper")

_INTERVALS = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "kind", "task", "method", "other", "size")),
        *((name, pa.float64()) for name in _FIGURES),
        ("seeds", pa.list_(pa.int64())),
        ("resamples", pa.int64()),
    ]
)
"""A row for each size of a question; that of the mean over sizes has no size and no simultaneous interval."""


def _interval_rows(key: str, question: Question, found: Intervals, resamples: int) -> list[dict[str, Any]]:
    values = found.to_dict(question.sizes)
    about = {
        "key": key,
        "kind": question.kind,
        "task": question.task,
        "method": question.method.method,
        "other": question.other.method if question.other else "",
        "seeds": values["seeds"],
        "resamples": resamples,
    }
    cells = {"": values["mean over sizes"], **values["sizes"]}
    return [{**about, "size": size, **dict(zip(_FIGURES, row, strict=False))} for size, row in cells.items()]


def _read_intervals(path: Path) -> dict[str, tuple[Intervals, int]]:
    by_key: dict[str, list[dict[str, Any]]] = {}
    if path.is_file():
        for row in read_table(path).to_pylist():
            by_key.setdefault(row["key"], []).append(row)
    found = {}
    for key, (mean, *cells) in by_key.items():
        columns = {name: np.array([cell[name] for cell in cells]) for name in _FIGURES}
        own = (mean["estimate"], mean["low"], mean["high"])
        found[key] = Intervals(**columns, mean=own, seeds=tuple(mean["seeds"])), int(mean["resamples"])
    return found


# --- what a report reads -------------------------------------------------------------------------------


def scores_of(runs: MethodRuns, task: str, book: IntervalBook) -> dict[str, Any]:
    """Return a method's scores with intervals, spread over seeds, steps down and cost, as JSON values."""
    mean = runs.mean_grid()
    spread = seed_spread(runs.scores())
    return {
        "method": runs.method,
        "seeds": list(runs.seeds),
        "mean": round(mean.mean_over_sizes(), 4),
        "spread": {
            str(size): round(float(value), 3)
            for size, value in zip(runs.sizes, spread, strict=True)
            if len(runs.seeds) > 1
        },
        "inversions": [str(step) for step in mean.inversions()],
        "cost": {
            "train_seconds": round(runs.total("train_seconds"), 1),
            "train_peak_memory_mb": round(runs.peak("train_peak_memory_mb")),
            "evaluate_seconds": round(runs.total("evaluate_seconds"), 1),
        },
        "intervals": book(Question("score", task, runs, None, runs.sizes)).to_dict(runs.sizes),
    }


def comparison_of(one: MethodRuns, other: MethodRuns, task: str, book: IntervalBook) -> dict[str, Any]:
    """Return the lead of a method over another at the sizes that both have, as JSON values."""
    shared = tuple(size for size in one.sizes if size in other.sizes)
    if not shared:
        raise UserError(f"{one.method} and {other.method} have no size in common")
    paired = one.seeds == other.seeds
    lead = book(Question("lead", task, one, other, shared))
    return {
        "method": one.method,
        "other": other.method,
        "paired_seeds": paired and len(one.seeds) > 1,
        **lead.to_dict(shared),
        **counts(lead, shared),
        "tests_over_seeds": _tests(one.scores(shared), other.scores(shared)) if paired else None,
    }


def claim_of(
    claim: Mapping[str, Any], one: MethodRuns, other: MethodRuns, book: IntervalBook
) -> dict[str, Any]:
    """Return whether a claim of the plan holds, and the figures that say so, as JSON values."""
    keeps = KEEPS.fullmatch(str(claim["verdict"]))
    wanted = parse_sizes(claim["sizes"]) if claim["sizes"] else None
    own = [size for size in one.sizes if wanted is None or size in wanted]
    shared = tuple(own if keeps else [size for size in own if size in other.sizes])
    if not shared:
        raise UserError(f"claim '{claim['text']}': {one.method} and {other.method} lack its sizes")
    found = book(Question("share" if keeps else "lead", claim["task"], one, other, shared))
    verdict = str(claim["verdict"])
    holds = bool((found.estimate >= float(keeps[1])).all()) if keeps else _holds(verdict, found)
    return {**claim, "holds": holds, **found.to_dict(shared)}


def _holds(verdict: str, found: Intervals) -> bool:
    _, low, high = found.mean
    mean = {"mean at least as good": low > -MARGIN, "mean better": low > 0, "mean worse": high < 0}
    if verdict in mean:
        return bool(mean[verdict])
    each = {"at least as good": found.at_least_as_good(), "better": found.better, "worse": found.worse}
    return bool(each[verdict].all())


def counts(lead: Intervals, sizes: Sequence[Size]) -> dict[str, Any]:
    """Return which sizes are better, worse, and not shown to be at least as good."""
    short = ~lead.at_least_as_good()
    return {
        "count": len(sizes),
        "better": [str(size) for size, yes in zip(sizes, lead.better, strict=True) if yes],
        "worse": [str(size) for size, yes in zip(sizes, lead.worse, strict=True) if yes],
        "not_at_least_as_good": [str(size) for size, yes in zip(sizes, short, strict=True) if yes],
        "margin": MARGIN,
    }


def _tests(method: Floats, other: Floats) -> dict[str, Any] | None:
    """Return p-values over seeds of the mean over sizes and, where they can reject, of each size."""
    mean = seed_tests(method.mean(axis=1, keepdims=True), other.mean(axis=1, keepdims=True))
    if mean is None:
        return None
    each = seed_tests(method, other)
    return {
        "mean over sizes": {name: float(values[0]) for name, values in mean.items()},
        "sizes": None if each is None else {name: values.tolist() for name, values in each.items()},
    }


# --- everything at once --------------------------------------------------------------------------------


def statistics_of(
    facts: Mapping[str, Any], results: Sequence[Result], book: IntervalBook
) -> list[dict[str, Any]]:
    """Return what a report reads of each place: scores, comparisons and claims with intervals.

    Parameters
    ----------
    facts
        What `plan.json` holds.
    results
        The results of the plan.
    book
        Their intervals.
    """
    return [_statistics_at(place, facts, runs_at(results, place), book) for place in places(results)]


def _statistics_at(
    place: Place, facts: Mapping[str, Any], runs: Mapping[str, MethodRuns], book: IntervalBook
) -> dict[str, Any]:
    task = place.task
    claims = [c for c in facts["claims"] if c["task"] == task and {c["method"], c["other"]} <= set(runs)]
    return {
        "place": str(place),
        "backbone": place.backbone,
        "data": list(place.data),
        "task": task,
        "methods": [scores_of(runs[name], task, book) for name in facts["methods"] if name in runs],
        "comparisons": [
            comparison_of(runs[one], runs[other], task, book)
            for one, other in facts["compare"]
            if one in runs and other in runs
        ],
        "claims": [
            claim_of(claim, runs[claim["method"]], runs[claim["other"]], book)
            if _has_all_sizes(claim, facts, runs)
            else {**claim, "missing": True}
            for claim in claims
        ],
    }


def _has_all_sizes(
    claim: Mapping[str, Any], facts: Mapping[str, Any], runs: Mapping[str, MethodRuns]
) -> bool:
    """Return whether both methods were run at every size of the plan that a claim is about."""
    pair = [claim["method"], claim["other"]]
    planned = [parse_sizes(facts["methods"][name]["sizes"] or facts["sizes"]) for name in pair]
    wanted = set(planned[0]) & set(planned[1])
    if claim["sizes"]:
        wanted &= set(parse_sizes(claim["sizes"]))
    return all(wanted <= set(runs[name].sizes) for name in pair)


# --- over seeds alone: reported only where their number can reject anything at all ------------------------


def seeds_can_reject(seeds: int, tests: int = 1, level: float = 1 - LEVEL) -> bool:
    """Return whether a test over so many seeds can reject anything after Holm's correction.

    The smallest p-value of a two-sided Wilcoxon test of n differences is 2 / 2^n. A t test has no such
    floor, but with fewer seeds its small p-values rest on nothing but an assumed normal distribution.

    Parameters
    ----------
    seeds
        Number of seeds that both methods have.
    tests
        How many tests are corrected for: the number of sizes, or 1 for the mean over sizes.
    level
        The level of the test.

    Examples
    --------
    >>> seeds_can_reject(3), seeds_can_reject(6), seeds_can_reject(6, tests=48)
    (False, True, False)
    """
    return tests * 2.0 ** (1 - seeds) <= level


def seed_tests(method: Floats, other: Floats) -> dict[str, Floats] | None:
    """Return p-values of paired tests over seeds, corrected by Holm, or None if none could reject.

    Parameters
    ----------
    method, other
        Float [seeds, sizes]: scores of the same seeds.

    Returns
    -------
    dict or None
        ``"t"`` and ``"wilcoxon"`` → float64 [sizes]; None with too few seeds: see `seeds_can_reject`.

    Examples
    --------
    >>> scores = np.arange(6.0)[:, None]
    >>> seed_tests(scores + 1 + 0.01 * scores, scores)["wilcoxon"].tolist()
    [0.03125]
    >>> seed_tests(scores[:3] + 1, scores[:3])
    """
    seeds, sizes = method.shape
    if method.shape != other.shape:
        raise UserError(
            f"scores of shape {method.shape} and {other.shape}: expected the same seeds and sizes"
        )
    if not seeds_can_reject(seeds, sizes):
        return None
    differences = method - other
    tests: dict[str, Callable[[Floats], Any]] = {"t": _paired_t, "wilcoxon": stats.wilcoxon}
    return {
        name: holm(np.array([_p_value(test, differences[:, size]) for size in range(sizes)]))
        for name, test in tests.items()
    }


def _paired_t(differences: Floats) -> Any:
    return stats.ttest_1samp(differences, 0.0)


def _p_value(test: Callable[[Floats], Any], differences: Floats) -> float:
    if not np.any(differences):
        return 1.0
    with np.errstate(all="ignore"):
        return float(test(differences).pvalue)


def holm(p_values: Floats) -> Floats:
    """Return p-values corrected for their number by Holm's step-down procedure.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(steps)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def seed_interval(method: Floats, other: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the mean lead over seeds of each size, and its 95% interval by a paired t test.

    It says what other seeds would give on the same pairs; for other pairs too, see
    `matryoshka2d.evaluation.compare`. With few seeds it rests on an assumed normal distribution.

    Parameters
    ----------
    method, other
        Float [seeds, sizes]: scores of the same seeds, two or more.

    Returns
    -------
    tuple
        Lead, low and high: float64 [sizes] each.

    Examples
    --------
    >>> scores = np.array([[1.0], [2.0], [3.0]])
    >>> [round(float(value[0]), 2) for value in seed_interval(scores, 0 * scores)]
    [2.0, -0.48, 4.48]
    """
    if method.shape != other.shape or len(method) < 2:
        raise UserError(
            f"scores of shape {method.shape} and {other.shape}: expected the same two or more seeds of both"
        )
    low, high = stats.ttest_rel(method, other).confidence_interval(LEVEL)
    return np.asarray(np.mean(method - other, axis=0)), low, high


def seed_spread(scores: Floats) -> Floats:
    """Return the standard deviation over seeds of each size: float64 [sizes]; nan with a single seed.

    Parameters
    ----------
    scores
        Float [seeds, sizes].
    """
    if len(scores) < 2:
        return np.full(scores.shape[1], math.nan)
    return np.asarray(scores.std(axis=0, ddof=1))
