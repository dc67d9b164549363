"""The cheapest way to search an index that finds what exact search finds, checked on held-out queries."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.errors import UserError, needs
from matryoshka2d.evaluation.retrieval import ndcg
from matryoshka2d.search.fingerprint import check_one_space
from matryoshka2d.search.index import Index
from matryoshka2d.search.meta import Vectors
from matryoshka2d.search.store import Funnel, Ids, Store, with_choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Qrels = Mapping[str, Mapping[str, int]]

OVERSAMPLES = (1, 2, 3, 5, 8, 12, 20, 32, 50)
EFFORTS = (1, 2, 4)
"""How far a graph is searched, in multiples of the candidates."""
_LEAST_QUERIES = 20
_TIMED = 30


@dataclass(frozen=True)
class Setting:
    """One way to search, and what it was measured to cost and to find.

    Parameters
    ----------
    query_layers, prefix, oversample, effort
        The way: see `Index.search`; a prefix other than that of the index takes a `recut`.
    recall
        Share of the k nearest of exact full-size search that are found, mean over the queries that it was
        chosen on.
    held_out
        The same over the other queries.
    milliseconds
        Of one query: embedding it and searching, medians.
    search_milliseconds
        Of searching alone.
    ndcg
        nDCG at k over all queries with judgments, None without.
    on_front
        Whether no other way is both cheaper and surer.
    """

    query_layers: int
    prefix: int
    oversample: int
    effort: int
    recall: float
    held_out: float
    milliseconds: float
    search_milliseconds: float
    ndcg: float | None = None
    on_front: bool = False
    spread: float = field(default=0.0, repr=False)

    def reaches(self, target: float) -> bool:
        """Return whether the recall passes a target by two standard errors: other queries will then too."""
        return self.recall - 2 * self.spread >= target


@dataclass(frozen=True)
class Tuned:
    """All ways that were tried, and the one that was chosen.

    Parameters
    ----------
    target
        The recall that was asked for.
    k
        How many results it counts.
    settings
        All, cheapest first.
    chosen
        The cheapest one that reaches the target; None if none does.
    exact_milliseconds
        Of one query by exact search at full depth, median.
    exact_ndcg
        nDCG at k of exact search, None without judgments.
    """

    target: float
    k: int
    settings: tuple[Setting, ...]
    chosen: Setting | None
    exact_milliseconds: float
    exact_ndcg: float | None = None

    @property
    def front(self) -> tuple[Setting, ...]:
        """The ways than which none is both cheaper and surer, cheapest first."""
        return tuple(one for one in self.settings if one.on_front)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def figure(self) -> Figure:
        """Return recall over milliseconds: every way a point, the front a line, the chosen one marked."""
        needs("report", "matplotlib")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for layers in sorted({one.query_layers for one in self.settings}):
            some = [one for one in self.settings if one.query_layers == layers]
            axes.scatter(
                [one.milliseconds for one in some],
                [one.recall for one in some],
                s=14,
                label=f"{layers} layers",
            )
        axes.plot(
            [one.milliseconds for one in self.front], [one.recall for one in self.front], color="0.5", lw=1
        )
        if self.chosen is not None:
            axes.scatter(
                [self.chosen.milliseconds], [self.chosen.recall], s=90, facecolors="none", edgecolors="black"
            )
        axes.axhline(self.target, color="0.7", lw=1, ls="--")
        axes.set_xscale("log")
        axes.set(xlabel="milliseconds a query", ylabel=f"recall@{self.k} against exact search")
        axes.legend(title="query", fontsize="small")
        return figure


def tune(
    index: Index,
    queries: Sequence[str] | Mapping[str, str],
    *,
    recall: float = 0.99,
    k: int = 10,
    prefixes: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    qrels: Qrels | None = None,
    seed: int = 0,
    save: bool = True,
    show: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Measure ways to search and choose the cheapest that reaches a recall.

    The queries are dealt into two halves. A way is chosen on the first: its recall there, less two standard
    errors, must reach the target. The second says what it is worth.

    Parameters
    ----------
    index
        The index, with its model.
    queries
        Texts like those that will be searched for, or id → text. At least 20; some hundred tell recalls of a
        hundredth apart.
    recall
        Share of the k nearest of exact full-size search that must be found.
    k
        How many results.
    prefixes
        Prefixes to try. Default: that of the index, half and double. One that is chosen is cut into the
        index.
    layers
        Depths of the query to try. Default: that of the index, and shallower ones where the model's exits lie
        in one space. One whose exact search misses the target is measured once, for the front.
    qrels
        Query id → document id → grade, for nDCG.
    seed
        Deals the queries.
    save
        Write the choice into the index; another prefix is then cut.
    show
        Gets a line of progress now and then.

    Raises
    ------
    UserError
        If there are too few queries, or an argument cannot be.
    """
    if not 0 < recall <= 1:
        raise UserError(f"a recall of {recall} cannot be reached: expected above 0 and up to 1, as 0.99")
    named = dict(queries) if isinstance(queries, Mapping) else {str(i): one for i, one in enumerate(queries)}
    if len(named) < _LEAST_QUERIES:
        raise UserError(f"{len(named)} queries are too few to tune on: expected at least {_LEAST_QUERIES}")
    if not len(index):
        raise UserError("the index is empty: there is nothing to tune on")
    meta = index.meta
    tried = _prefixes(meta.prefix, meta.size.dims) if prefixes is None else sorted(set(prefixes))
    first = _first_half(len(named), seed)
    vectors = {n: index.embed(list(named.values()), n) for n in _depths(index, layers)}
    embedding = {n: _embedding_ms(index, list(named.values()), n) for n in vectors}
    start = time.perf_counter()
    truth, _ = index.store.exact(_of(vectors, meta.size.layers, index, named), k)
    exact_ms = 1e3 * (time.perf_counter() - start) / len(named)
    judged = None if qrels is None else _Judged(list(named), qrels, k)
    trial = _Trial(k, recall, vectors, embedding, truth, first, judged)
    enough = {n: trial.recalls(index.store.exact(vectors[n], k)[0]).mean() >= recall for n in vectors}
    settings: list[Setting] = []
    for prefix in tried:
        show(f"prefix {prefix}")
        with index.store.trial(prefix) as store:
            for depth, hopeful in enough.items():
                settings += trial.at(store, depth) if hopeful else [trial.once(store, depth)]
    ordered = _with_front(sorted(settings, key=lambda one: one.milliseconds))
    chosen = cheapest(ordered, recall)
    tuned = Tuned(
        recall,
        k,
        tuple(ordered),
        chosen,
        exact_ms + _embedding_ms(index, list(named.values()), meta.size.layers),
        None if judged is None else judged.mean(truth),
    )
    if save and chosen is not None:
        _write(index, chosen, tuned)
    return tuned


def cheapest(settings: Sequence[Setting], recall: float) -> Setting | None:
    """Return the cheapest setting that reaches a recall, None if there is none."""
    enough = [one for one in settings if one.reaches(recall)]
    return min(enough, key=lambda one: one.milliseconds, default=None)


def _prefixes(prefix: int, dims: int) -> list[int]:
    return sorted({max(8, prefix // 2), prefix, min(dims, 2 * prefix)} & set(range(1, dims + 1)))


def _depths(index: Index, layers: Sequence[int] | None) -> list[int]:
    """Return the depths to try: shallower ones only where they meet the documents."""
    deepest = index.meta.size.layers
    if layers is not None:
        for n in layers:
            if not 1 <= n <= deepest:
                raise UserError(f"queries of {n} layers cannot be: use 1 to {deepest}")
            if n < deepest:
                check_one_space(index.meta, n)
        return sorted(set(layers))
    depths = [deepest]
    for n in sorted(index.meta.probes):
        if n < deepest:
            try:
                check_one_space(index.meta, n)
            except UserError:
                continue
            depths.append(n)
    return sorted(depths)


def _of(vectors: Mapping[int, Vectors], layers: int, index: Index, named: Mapping[str, str]) -> Vectors:
    return vectors[layers] if layers in vectors else index.embed(list(named.values()), layers)


def _first_half(count: int, seed: int) -> NDArray[np.bool_]:
    first = np.zeros(count, dtype=bool)
    first[np.random.default_rng(seed).permutation(count)[: (count + 1) // 2]] = True
    return first


def _embedding_ms(index: Index, texts: Sequence[str], layers: int) -> float:
    """Return the median time to embed one query."""
    taken = []
    for text in texts[:_TIMED]:
        start = time.perf_counter()
        index.embed([text], layers)
        taken.append(1e3 * (time.perf_counter() - start))
    return float(np.median(taken))


@dataclass(frozen=True)
class _Judged:
    """Judgments of the queries, in their order."""

    names: Sequence[str]
    qrels: Qrels
    k: int

    def mean(self, found: Ids) -> float | None:
        scores = [
            ndcg([self.qrels[name].get(key, 0) for key in row], self.qrels[name].values(), self.k)
            for name, row in zip(self.names, found, strict=True)
            if any(grade > 0 for grade in self.qrels.get(name, {}).values())
        ]
        return float(np.mean(scores)) if scores else None


@dataclass(frozen=True)
class _Trial:
    """What every way is measured with."""

    k: int
    target: float
    vectors: Mapping[int, Vectors]
    embedding: Mapping[int, float]
    truth: Ids
    first: NDArray[np.bool_]
    judged: _Judged | None

    def at(self, store: Store, layers: int) -> Iterator[Setting]:
        """Yield ways with more and more candidates, until one reaches the target with the least effort."""
        efforts = EFFORTS if store.meta.graph else (1,)
        for oversample in OVERSAMPLES:
            for times in efforts:
                way = self.measured(
                    store, layers, oversample, 0 if times == 1 else times * oversample * self.k
                )
                yield way
                if way.reaches(self.target):
                    if times == 1:
                        return
                    break
            if oversample * self.k >= len(store):
                return

    def once(self, store: Store, layers: int) -> Setting:
        """Return one way of a depth that cannot reach the target, to show what it would give."""
        return self.measured(store, layers, OVERSAMPLES[len(OVERSAMPLES) // 2], 0)

    def measured(self, store: Store, layers: int, oversample: int, effort: int) -> Setting:
        """Search with every query by itself."""
        candidates = oversample * self.k
        funnel = Funnel(self.k, candidates, max(effort, candidates), store.meta.prefix)
        found: Ids = []
        taken = []
        for row in range(len(self.truth)):
            start = time.perf_counter()
            found += store.search(self.vectors[layers][row : row + 1], funnel).ids
            taken.append(1e3 * (time.perf_counter() - start))
        searching = float(np.median(taken))
        recalls = self.recalls(found)
        chosen_on = recalls[self.first]
        return Setting(
            layers,
            store.meta.prefix,
            oversample,
            effort,
            float(chosen_on.mean()),
            float(recalls[~self.first].mean()),
            self.embedding[layers] + searching,
            searching,
            None if self.judged is None else self.judged.mean(found),
            spread=float(chosen_on.std() / math.sqrt(len(chosen_on))),
        )

    def recalls(self, found: Ids) -> Floats:
        """Return the recall of every query."""
        pairs = zip(found, self.truth, strict=True)
        return np.array([len(set(one) & set(own)) / max(1, len(own)) for one, own in pairs])


def _with_front(ordered: Sequence[Setting]) -> list[Setting]:
    """Mark the settings that no cheaper one reaches."""
    best, marked = -1.0, []
    for one in ordered:
        marked.append(replace(one, on_front=one.recall > best))
        best = max(best, one.recall)
    return marked


def _write(index: Index, chosen: Setting, tuned: Tuned) -> None:
    """Make the choice what the index does by default."""
    record = {
        "recall": chosen.recall,
        "held_out": chosen.held_out,
        "target": tuned.target,
        "k": tuned.k,
        "milliseconds": chosen.milliseconds,
        "search_milliseconds": chosen.search_milliseconds,
        "exact_milliseconds": tuned.exact_milliseconds,
        "ndcg": chosen.ndcg,
    }
    layers = 0 if chosen.query_layers == index.meta.size.layers else chosen.query_layers
    meta = with_choice(
        index.meta, oversample=chosen.oversample, effort=chosen.effort, query_layers=layers, tuned=record
    )
    with index.store.writing():
        if chosen.prefix != meta.prefix:
            index.store.recut(replace(meta, prefix=chosen.prefix))
        else:
            index.store.write_meta(meta)
