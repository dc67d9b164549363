"""Measuring the quality of every size: on sentence pairs, or on queries and documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np

from matryoshka2d.evaluation.cost import INDEX_PRECISIONS
from matryoshka2d.evaluation.exits import Exits, as_exits, sizes_of
from matryoshka2d.evaluation.quality import Quality, quality_of
from matryoshka2d.evaluation.resampling import bootstrap_means, bootstrap_spearman
from matryoshka2d.evaluation.retrieval import retrieval_details, scores_by_precision
from matryoshka2d.evaluation.retrieval_sets import RetrievalSet
from matryoshka2d.evaluation.sts import StsSet
from matryoshka2d.evaluation.sts_grid import EncodedSts, encode_sts
from matryoshka2d.size import Size

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
    cosines = encoded.cosines(precision=precision)
    columns = {one: np.concatenate([cosines[one], reference[one]], axis=1) for one in cosines}
    gold = {one.name: one.gold for one in encoded.sets}
    return quality_of(
        bootstrap_spearman(columns, gold, resamples=resamples, seed=seed),
        encoded.sizes,
        metric="spearman",
        units={one.name: len(one) for one in encoded.sets},
        precision=precision,
        name=name,
        details={**encoded.details, **(details or {})},
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
    found = retrieval_qualities(
        model,
        sets,
        precisions=(precision,),
        sizes=sizes,
        k=k,
        resamples=resamples,
        seed=seed,
        name=name,
        details=details,
        **encoding,
    )
    return found[precision]


def retrieval_qualities(
    model: Any,
    sets: Sequence[RetrievalSet],
    *,
    precisions: Iterable[str],
    sizes: str | Iterable[str | Size] | None = None,
    k: int = 10,
    resamples: int = RESAMPLES,
    seed: int = 0,
    name: str = "",
    details: Mapping[str, Any] | None = None,
    **encoding: Any,
) -> dict[str, Quality]:
    """Return index precision → what `retrieval_quality` gives, from one pass over queries and documents."""
    encoder = as_exits(model)
    wanted = with_full(encoder, sizes)
    asked = tuple(precisions)
    every = tuple(dict.fromkeys(["float32", *asked]))
    scores = {
        one.name: scores_by_precision(encoder, one, precisions=every, sizes=wanted, k=k, **encoding)
        for one in sets
    }
    known = retrieval_details(encoder, sets, **encoding)

    def quality(precision: str) -> Quality:
        tables = {}
        for one, found in scores.items():
            reference = found["float32"]["prefix"][wanted[-1]]
            own = found[precision]["prefix"]
            tables[one] = np.stack([*(own[size] for size in wanted), reference], axis=1)
        return quality_of(
            bootstrap_means(tables, resamples=resamples, seed=seed),
            wanted,
            metric=f"ndcg@{k}",
            units={one.name: len(one.judged) for one in sets},
            of="queries",
            precision=precision,
            name=name,
            details={**known, **(details or {})},
        )

    return {precision: quality(precision) for precision in asked}


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
        Sentence pairs, which may be encoded already, or retrieval sets; they are encoded once for all
        precisions.
    precisions
        As in `INDEX_PRECISIONS`.
    **encoding
        Of `encode_sts` or `retrieval_scores`.
    """
    kept = {"date": date.today().isoformat(), **(details or {})}
    if not isinstance(source, EncodedSts) and isinstance(source[0], RetrievalSet):
        sets = [one for one in source if isinstance(one, RetrievalSet)]
        return retrieval_qualities(
            model, sets, precisions=precisions, sizes=sizes, name=name, details=kept, **encoding
        )
    if not isinstance(source, EncodedSts):
        pairs = [one for one in source if isinstance(one, StsSet)]
        source = encode_sts(model, pairs, sizes=with_full(as_exits(model), sizes), **encoding)
    return {one: encoded_quality(source, precision=one, name=name, details=kept) for one in precisions}


def with_full(model: Exits, sizes: str | Iterable[str | Size] | None) -> tuple[Size, ...]:
    """Return the sizes to measure, the full size among them."""
    return tuple(sorted({*sizes_of(model, sizes), Size(model.depth, model.width)}))
