"""How good every size is, how much of the full size that keeps, and how sure both are.

Made from what the grid is made from: the cosines of sentence pairs, or the nDCG of queries. The intervals
come from a bootstrap over those pairs or queries; see `matryoshka2d.evaluation.bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, NamedTuple

import numpy as np

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.bootstrap import (
    Replicates,
    against_size,
    bootstrap_means,
    bootstrap_spearman,
    score_intervals,
)
from matryoshka2d.evaluation.cosine import Floats
from matryoshka2d.evaluation.cost import INDEX_PRECISIONS
from matryoshka2d.evaluation.exits import Exits, as_exits, sizes_of
from matryoshka2d.evaluation.grid import Grid
from matryoshka2d.evaluation.index_precision import IndexedExits, kept_as
from matryoshka2d.evaluation.retrieval import retrieval_scores
from matryoshka2d.evaluation.retrieval_sets import RetrievalSet
from matryoshka2d.evaluation.sts import EncodedSts, StsSet, encode_sts
from matryoshka2d.size import Size, parse_sizes

_DIGITS = 3


class Interval(NamedTuple):
    """An estimate with the two ends of its 95% interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """The measured quality of a model at every size, with intervals.

    Made by `quality_of`; kept in the record of a saved model.

    Parameters
    ----------
    grid
        The scores, the last size being the full one.
    intervals
        Float64 [sizes, 2]: the interval of each score (the mean over sets), simultaneous over sizes.
    kept_shares
        Float64 [sizes, 3]: share of the full size's score, its low and high, simultaneous over sizes.
    margins
        Float64 [sizes, sizes]: how far apart, in points, two scores must be for their paired interval to
        leave no doubt which is better. Symmetric.
    units
        Set name → number of pairs or queries that were resampled.
    of
        What was resampled: ``"pairs"`` or ``"queries"``.
    fidelity
        Whether this is agreement with the model's own full size instead of quality.
    precision
        How the vectors were kept: ``"float32"``, ``"int8"`` or ``"binary"``. Shares are always those of the
        full size's score as float32.
    details
        Provenance: the model's fingerprint, the data, the date. JSON values only.
    """

    grid: Grid
    intervals: Floats
    kept_shares: Floats
    margins: Floats
    units: Mapping[str, int]
    of: str = "pairs"
    fidelity: bool = False
    precision: str = "float32"
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes, ascending; the last is the full one."""
        return self.grid.sizes

    @property
    def total(self) -> int:
        """How many pairs or queries there are in all sets."""
        return sum(self.units.values())

    def score(self, size: Size) -> Interval:
        """Return the score x100, the mean over sets, with its interval."""
        low, high = self.intervals[self._position(size)]
        return Interval(self.grid.mean(size), float(low), float(high))

    def kept(self, size: Size) -> Interval:
        """Return the share of the full size's score, with its interval; paired with the full size."""
        return Interval(*map(float, self.kept_shares[self._position(size)]))

    def better(self, size: Size, other: Size) -> bool:
        """Return whether a size is better than another by their paired 95% interval.

        The interval is simultaneous over all sizes that the other is held against.
        """
        return self.grid.mean(size) - self.grid.mean(other) > self.margin(size, other)

    def margin(self, size: Size, other: Size) -> float:
        """Return by how many points one of two sizes must lead to be better without a doubt."""
        return float(self.margins[self._position(size), self._position(other)])

    def only(self, sizes: str | Iterable[str | Size]) -> Quality:
        """Return the quality of some sizes and the full one; shares stay those of the full one.

        Raises
        ------
        UserError
            If a size was not measured.
        """
        wanted = sorted({*parse_sizes(sizes), self.sizes[-1]})
        rows = [self._position(size) for size in wanted]
        scores = {name: tuple(values[i] for i in rows) for name, values in self.grid.scores.items()}
        return replace(
            self,
            grid=replace(self.grid, sizes=tuple(wanted), scores=scores),
            intervals=self.intervals[rows],
            kept_shares=self.kept_shares[rows],
            margins=self.margins[np.ix_(rows, rows)],
        )

    def _position(self, size: Size) -> int:
        if size not in self.sizes:
            raise UserError(f"the quality of size {size} was not measured: add it with --sizes")
        return self.sizes.index(size)

    # --- in and out --------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: the grid, and one row of intervals a size."""
        rows = {
            str(size): {
                "score": _rounded([self.grid.mean(size), *self.intervals[i]]),
                "kept": _rounded(self.kept_shares[i], _DIGITS + 2),
                "margins": _rounded(self.margins[i, :i]),
            }
            for i, size in enumerate(self.sizes)
        }
        return {
            "grid": self.grid.to_dict(),
            "intervals": rows,
            "units": dict(self.units),
            "of": self.of,
            "fidelity": self.fidelity,
            "precision": self.precision,
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Quality:
        """Read what `to_dict` gives.

        Raises
        ------
        UserError
            If the form is another.
        """
        try:
            grid = Grid.from_dict(values["grid"])
            rows = [values["intervals"][str(size)] for size in grid.sizes]
            margins = np.zeros((len(rows), len(rows)))
            for i, row in enumerate(rows):
                margins[i, :i] = margins[:i, i] = _floats(row["margins"])
            return cls(
                grid,
                np.array([_floats(row["score"])[1:] for row in rows]).reshape(-1, 2),
                np.array([_floats(row["kept"]) for row in rows]).reshape(-1, 3),
                margins,
                {str(name): int(count) for name, count in values["units"].items()},
                str(values["of"]),
                bool(values["fidelity"]),
                str(values["precision"]),
                dict(values["details"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                "the stored quality cannot be read: measure it again with matryoshka2d evaluate --save "
                f"({type(error).__name__}: {error})"
            ) from error


def quality_of(
    replicates: Replicates,
    sizes: Sequence[Size],
    *,
    metric: str,
    units: Mapping[str, int],
    of: str = "pairs",
    fidelity: bool = False,
    precision: str = "float32",
    name: str = "",
    details: Mapping[str, Any] | None = None,
) -> Quality:
    """Return the quality of every size from resampled scores.

    Parameters
    ----------
    replicates
        What `bootstrap_spearman` or `bootstrap_means` gives, of one model: a column for each size, and one
        more at the end, which the others are held against: the full size as float32.
    sizes
        The sizes, ascending; the last must be the full size.
    metric, name
        As in `Grid`.
    units, of, fidelity, precision, details
        As in `Quality`.
    """
    columns = range(len(sizes))
    own = replicates.take(columns)
    scores = {one: tuple(values[0].tolist()) for one, values in own.scores.items()}
    overall = score_intervals(own)
    # How far apart two scores must be: what the lower end of each difference is below its estimate.
    leads = [against_size(own, position) for position in columns]
    reach = np.stack([lead.estimate - lead.lower for lead in leads])
    return Quality(
        Grid(tuple(sizes), scores, metric, "prefix", name),
        np.stack([overall.lower, overall.upper], axis=1),
        _kept_shares(replicates),
        np.maximum(reach, reach.T),
        units,
        of,
        fidelity,
        precision,
        dict(details or {}),
    )


def _kept_shares(replicates: Replicates) -> Floats:
    """Return float64 [sizes, 3]: share of the last column's score, low, high; nan if that is not above 0."""
    scores, _ = replicates.of()
    if not scores[:, -1].mean() > 0:
        return np.full((scores.shape[1] - 1, 3), math.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample in which the full size scores 0
        kept = against_size(replicates, share=True)
    # Rounded, so that the full size keeps 1 exactly.
    return np.round(np.stack([kept.estimate, kept.lower, kept.upper], axis=1)[:-1] / 100, 9)


def _rounded(values: Any, digits: int = _DIGITS) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), digits) for value in values]


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


RESAMPLES = 1000


def sts_quality(
    model: Any,
    sets: Sequence[StsSet],
    *,
    sizes: str | Iterable[str | Size] | None = None,
    precision: str = "float32",
    resamples: int = RESAMPLES,
    seed: int = 0,
    name: str = "",
    details: Mapping[str, Any] | None = None,
    **encoding: Any,
) -> Quality:
    """Measure sentence similarity at every size, with intervals over the pairs.

    Parameters
    ----------
    model, sets, sizes
        As in `encode_sts`; the full size is always measured too.
    precision
        How an index keeps the vectors: see `matryoshka2d.evaluation.index_precision`.
    resamples, seed
        As in `bootstrap_spearman`.
    name, details
        Kept with the quality.
    **encoding
        ``prompt_name``, ``prompt``, ``batch_size``, ``show_progress_bar`` of `encode_sts`.
    """
    encoder = as_exits(model)
    wanted = with_full(encoder, sizes)
    encoded = encode_sts(encoder, sets, sizes=wanted, **encoding)
    return encoded_quality(
        encoded, precision=precision, resamples=resamples, seed=seed, name=name, details=details
    )


def encoded_quality(
    encoded: EncodedSts,
    *,
    precision: str = "float32",
    resamples: int = RESAMPLES,
    seed: int = 0,
    name: str = "",
    details: Mapping[str, Any] | None = None,
) -> Quality:
    """Return the quality from sets that are encoded already, their last size being the full one."""
    full = encoded.sizes[-1]
    reference = encoded.cosines([full])
    kept = {layer: kept_as(vectors, precision) for layer, vectors in encoded.vectors.items()}
    cosines = replace(encoded, vectors=kept).cosines()
    columns = {one: np.concatenate([cosines[one], reference[one]], axis=1) for one in cosines}
    gold = {one.name: one.gold for one in encoded.sets}
    return quality_of(
        bootstrap_spearman(columns, gold, resamples=resamples, seed=seed),
        encoded.sizes,
        metric="spearman",
        units={one.name: len(one) for one in encoded.sets},
        precision=precision,
        name=name,
        details=details,
    )


def retrieval_quality(
    model: Any,
    sets: Sequence[RetrievalSet],
    *,
    sizes: str | Iterable[str | Size] | None = None,
    precision: str = "float32",
    k: int = 10,
    resamples: int = RESAMPLES,
    seed: int = 0,
    name: str = "",
    details: Mapping[str, Any] | None = None,
    **encoding: Any,
) -> Quality:
    """Measure nDCG at k at every size, with intervals over the queries.

    Parameters
    ----------
    model, sets, sizes, k
        As in `retrieval_scores`; the full size is always measured too.
    precision, resamples, seed, name, details
        As in `sts_quality`.
    **encoding
        The other arguments of `retrieval_scores`.
    """
    encoder = as_exits(model)
    wanted = with_full(encoder, sizes)
    indexed = encoder if precision == "float32" else IndexedExits(encoder, precision)
    tables = {}
    for one in sets:
        scores = retrieval_scores(indexed, one, sizes=wanted, k=k, **encoding)["prefix"]
        full = wanted[-1:]
        reference = (
            {full[0]: scores[full[0]]}
            if indexed is encoder
            else retrieval_scores(encoder, one, sizes=full, k=k, **encoding)["prefix"]
        )
        tables[one.name] = np.stack([*(scores[size] for size in wanted), *reference.values()], axis=1)
    return quality_of(
        bootstrap_means(tables, resamples=resamples, seed=seed),
        wanted,
        metric=f"ndcg@{k}",
        units={one.name: len(one.judged) for one in sets},
        of="queries",
        precision=precision,
        name=name,
        details=details,
    )


def labelled_qualities(
    model: Any,
    source: EncodedSts | Sequence[StsSet] | Sequence[RetrievalSet],
    *,
    precisions: Iterable[str] = tuple(INDEX_PRECISIONS),
    sizes: str | Iterable[str | Size] | None = None,
    name: str = "",
    details: Mapping[str, Any] | None = None,
    **encoding: Any,
) -> dict[str, Quality]:
    """Return index precision → quality on labelled sets of one kind.

    Parameters
    ----------
    model, sizes, name, details
        As in `sts_quality`; the date is added to the details.
    source
        Sentence pairs, which are encoded once for all precisions and may be encoded already, or retrieval
        sets, which are encoded for each.
    precisions
        As in `INDEX_PRECISIONS`.
    **encoding
        Of `encode_sts` or `retrieval_scores`.
    """
    kept = {"date": date.today().isoformat(), **(details or {})}
    if not isinstance(source, EncodedSts) and isinstance(source[0], RetrievalSet):
        sets = [one for one in source if isinstance(one, RetrievalSet)]
        return {
            one: retrieval_quality(
                model, sets, sizes=sizes, precision=one, name=name, details=kept, **encoding
            )
            for one in precisions
        }
    if not isinstance(source, EncodedSts):
        pairs = [one for one in source if isinstance(one, StsSet)]
        source = encode_sts(model, pairs, sizes=with_full(as_exits(model), sizes), **encoding)
    return {one: encoded_quality(source, precision=one, name=name, details=kept) for one in precisions}


def with_full(model: Exits, sizes: str | Iterable[str | Size] | None) -> tuple[Size, ...]:
    """Return the sizes to measure, the full size among them."""
    return tuple(sorted({*sizes_of(model, sizes), Size(model.depth, model.width)}))
