"""Comparisons: what the results of a plan say, with intervals, as JSON values that a report reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import Grid
from matryoshka2d.evaluation.bootstrap import (
    MARGIN,
    Intervals,
    Replicates,
    compare,
    score_intervals,
    share_of,
)
from matryoshka2d.size import Size, parse_sizes
from matryoshka2d_reproduction.over_seeds import seed_spread, seed_tests
from matryoshka2d_reproduction.plan import KEEPS
from matryoshka2d_reproduction.replicates import RESAMPLES, has_replicates, joined, replicates_of_run
from matryoshka2d_reproduction.results import Result


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
class Runs:
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


def runs_at(results: Iterable[Result], place: Place) -> dict[str, Runs]:
    """Return method → its runs at a place; seeds that lack a size that others have are left out."""
    by_method: dict[str, dict[int, list[Result]]] = {}
    for result in results:
        here = result.backbone == place.backbone and result.data in (*place.data, "")
        if here and place.task in result.grids:
            by_method.setdefault(result.method, {}).setdefault(result.seed, []).append(result)
    return {method: _runs(method, by_seed, place.task) for method, by_seed in by_method.items()}


def _runs(method: str, by_seed: Mapping[int, list[Result]], task: str) -> Runs:
    parts = {
        seed: tuple(sorted(results, key=lambda r: r.grids[task].sizes)) for seed, results in by_seed.items()
    }
    sizes = {seed: [size for r in part for size in r.grids[task].sizes] for seed, part in parts.items()}
    most = max(map(len, sizes.values()))
    whole = sorted(seed for seed, own in sizes.items() if len(own) == most)
    return Runs(
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


# --- resampling ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bootstrap:
    """Where replicates come from.

    Parameters
    ----------
    folder
        The results of the plan: see `matryoshka2d_reproduction.replicates`.
    cache
        Where `reproduce` keeps the score of every pair.
    resamples
        As in `bootstrap_spearman`.
    """

    folder: str | Path
    cache: str | Path
    resamples: int = RESAMPLES

    def has(self, runs: Runs) -> bool:
        """Return whether the replicates of a method's runs are there, or can be made."""
        return all(
            has_replicates(r, self.folder, self.cache, self.resamples) for part in runs.parts for r in part
        )

    def of(self, runs: Runs, task: str) -> Replicates:
        """Return the replicates of a method: seeds x sizes, means over the sets of a task."""
        return joined(
            [replicates_of_run(r, task, self.folder, self.cache, self.resamples) for r in part]
            for part in runs.parts
        )


# --- what a report reads -------------------------------------------------------------------------------


def scores_of(runs: Runs, replicates: Replicates | None) -> dict[str, Any]:
    """Return a method's scores with intervals, spread over seeds, steps down and cost, as JSON values."""
    mean = runs.mean_grid()
    spread = seed_spread(np.array([list(grid.values().values()) for grid in runs.grids]))
    entry: dict[str, Any] = {
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
    }
    if replicates is not None:
        entry["intervals"] = score_intervals(replicates).to_dict(runs.sizes)
    return entry


def comparison_of(one: Runs, other: Runs, replicates: tuple[Replicates, Replicates]) -> dict[str, Any]:
    """Return the lead of a method over another at the sizes that both have, as JSON values."""
    shared = [size for size in one.sizes if size in other.sizes]
    if not shared:
        raise UserError(f"{one.method} and {other.method} have no size in common")
    left, right = (
        values.take([runs.sizes.index(size) for size in shared])
        for runs, values in zip((one, other), replicates, strict=True)
    )
    paired = one.seeds == other.seeds
    lead = compare(left, right, paired_seeds=paired)
    return {
        "method": one.method,
        "other": other.method,
        "paired_seeds": paired and len(one.seeds) > 1,
        **lead.to_dict(shared),
        **counts(lead, shared),
        "tests_over_seeds": _tests(left, right, paired),
    }


def claim_of(
    claim: Mapping[str, Any], one: Runs, other: Runs, replicates: tuple[Replicates, Replicates]
) -> dict[str, Any]:
    """Return whether a claim of the plan holds, and the figures that say so, as JSON values."""
    keeps = KEEPS.fullmatch(str(claim["verdict"]))
    wanted = parse_sizes(claim["sizes"]) if claim["sizes"] else None
    own = [size for size in one.sizes if wanted is None or size in wanted]
    shared = own if keeps else [size for size in own if size in other.sizes]
    if not shared:
        raise UserError(f"claim '{claim['text']}': {one.method} and {other.method} lack its sizes")
    left = replicates[0].take([one.sizes.index(size) for size in shared])
    paired = one.seeds == other.seeds
    if keeps:
        full = replicates[1].take([len(other.sizes) - 1])
        found = share_of(left, full)
        holds = bool((found.estimate >= float(keeps[1])).all())
    else:
        right = replicates[1].take([other.sizes.index(size) for size in shared])
        found = compare(left, right, paired_seeds=paired)
        holds = _holds(str(claim["verdict"]), found)
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


def _tests(left: Replicates, right: Replicates, paired: bool) -> dict[str, Any] | None:
    """Return p-values over seeds of the mean over sizes and, where they can reject, of each size."""
    if not paired:
        return None
    one, other = left.of()[0], right.of()[0]
    mean = seed_tests(one.mean(axis=1, keepdims=True), other.mean(axis=1, keepdims=True))
    if mean is None:
        return None
    each = seed_tests(one, other)
    return {
        "mean over sizes": {name: float(values[0]) for name, values in mean.items()},
        "sizes": None if each is None else {name: values.tolist() for name, values in each.items()},
    }


# --- everything at once --------------------------------------------------------------------------------


def statistics_of(
    facts: Mapping[str, Any], results: Sequence[Result], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return what a report reads: scores, comparisons and claims with intervals.

    Parameters
    ----------
    facts
        What `plan.json` holds.
    results
        The results of the plan.
    bootstrap
        Where their replicates come from; runs that have none have scores without intervals.
    """
    found = []
    for place in places(results):
        runs = runs_at(results, place)
        bench = _Bench(facts, place.task, runs, bootstrap)
        comparisons = [pair for pair in facts["compare"] if pair[0] in runs and pair[1] in runs]
        claims = [
            c for c in facts["claims"] if c["task"] == place.task and {c["method"], c["other"]} <= set(runs)
        ]
        found.append(
            {
                "place": str(place),
                "backbone": place.backbone,
                "data": list(place.data),
                "task": place.task,
                "methods": [bench.scores(runs[name]) for name in facts["methods"] if name in runs],
                "comparisons": [bench.comparison(*pair) for pair in comparisons],
                "claims": [bench.claim(claim) for claim in claims],
            }
        )
    return {"resamples": bootstrap.resamples, "margin": MARGIN, "places": found}


class _Bench:
    """Makes the entries of one place; every method is read once."""

    def __init__(
        self, facts: Mapping[str, Any], task: str, runs: Mapping[str, Runs], bootstrap: Bootstrap
    ) -> None:
        self.facts = facts
        self.runs = runs
        self.replicates = {name: bootstrap.of(own, task) for name, own in runs.items() if bootstrap.has(own)}

    def scores(self, runs: Runs) -> dict[str, Any]:
        return {"method": runs.method, **scores_of(runs, self.replicates.get(runs.method))}

    def comparison(self, method: str, other: str) -> dict[str, Any]:
        if not {method, other} <= set(self.replicates):
            return {"method": method, "other": other, "missing": True}
        return comparison_of(self.runs[method], self.runs[other], self._both(method, other))

    def claim(self, claim: Mapping[str, Any]) -> dict[str, Any]:
        method, other = claim["method"], claim["other"]
        if not {method, other} <= set(self.replicates) or not self._has_all_sizes(claim):
            return {**claim, "missing": True}
        return claim_of(claim, self.runs[method], self.runs[other], self._both(method, other))

    def _has_all_sizes(self, claim: Mapping[str, Any]) -> bool:
        """Return whether both methods were run at every size of the plan that a claim is about."""
        pair = [claim["method"], claim["other"]]
        planned = [parse_sizes(self.facts["methods"][name]["sizes"] or self.facts["sizes"]) for name in pair]
        wanted = set(planned[0]) & set(planned[1])
        if claim["sizes"]:
            wanted &= set(parse_sizes(claim["sizes"]))
        return all(wanted <= set(self.runs[name].sizes) for name in pair)

    def _both(self, method: str, other: str) -> tuple[Replicates, Replicates]:
        return self.replicates[method], self.replicates[other]
