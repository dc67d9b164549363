"""Fidelity: how far every size agrees with the full size, on texts that nobody has labelled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.evaluation.agreement import check_varies, neighbour_recalls
from matryoshka2d.evaluation.cosine import Floats
from matryoshka2d.evaluation.exits import as_exits, dims_by_layer, finite
from matryoshka2d.evaluation.index_precision import kept_widths
from matryoshka2d.evaluation.measured_quality import RESAMPLES, with_full
from matryoshka2d.evaluation.quality import Quality, quality_of
from matryoshka2d.evaluation.resampling import bootstrap_means, bootstrap_spearman
from matryoshka2d.evaluation.similarity import similarity_details, similarity_of
from matryoshka2d.size import Size

MEASURES = ("similarity", "recall")
"""What agreement with the full size may be measured by."""

FEWEST_TEXTS = 8


def fidelity(
    model: Any,
    texts: Sequence[str],
    *,
    measure: str = "similarity",
    sizes: str | Iterable[str | Size] | None = None,
    precision: str = "float32",
    k: int = 10,
    resamples: int = RESAMPLES,
    seed: int = 0,
    name: str = "",
    details: Mapping[str, Any] | None = None,
    **encoding: Any,
) -> Quality:
    """Measure, without labels, how far every size agrees with the model's own full size.

    This is fidelity, not quality: a size that ranks everything as the full size does scores 100, whether
    the full size is right or wrong.

    Parameters
    ----------
    model, sizes
        As in `agreement_grids`; the full size is always measured too.
    texts
        Texts like those that will be embedded; repeats are left out.
    measure
        ``"similarity"``: Spearman's correlation of the cosines of pairs of texts with those of the full
        size; each text stands in one pair, so that the pairs are independent. ``"recall"``: the share of
        each text's k nearest neighbours under the full size that are still among its k; choose it when the
        vectors are for search.
    precision, resamples, seed, name, details
        As in `sts_quality`.
    k
        Neighbours that count for the recall.
    **encoding
        ``prompt_name``, ``prompt``, ``batch_size``, ``show_progress_bar``.

    Raises
    ------
    UserError
        If the measure is not known, there are too few texts, or they all look alike to the full size.
    """
    check_measure(measure)
    distinct = list(dict.fromkeys(texts))
    fewest = FEWEST_TEXTS if measure == "similarity" else k + 1
    if len(distinct) < fewest:
        raise UserError(
            f"{len(distinct)} different texts are too few for fidelity: expected at least {fewest}"
        )
    encoder = as_exits(model)
    wanted = with_full(encoder, sizes)
    table = dims_by_layer(wanted)
    exits = finite(encoder.exits(distinct, layers=list(table), **encoding), distinct)
    reference = exits[wanted[-1].layers]
    check_varies(reference)
    similarity = similarity_of(encoder)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    columns: list[Floats] = []
    if measure == "similarity":
        pairs = (
            np.random.default_rng(seed).permutation(len(distinct))[: len(distinct) // 2 * 2].reshape(-1, 2)
        )
        gold = similarity.of_pairs(reference, pairs, [reference.shape[1]])
        for layer, dims in table.items():
            for kept, widths in kept_widths(exits[layer], dims, precision, unit=similarity.unit):
                columns.append(similarity.of_pairs(kept, pairs, widths))
        agreement = {"similarity": np.concatenate([*columns, gold], axis=1)}
        replicates = bootstrap_spearman(agreement, {"similarity": gold[:, 0]}, **options)
    else:
        asked: dict[str, Any] = {"k": k, "similarity": similarity, "precision": precision}
        columns = [neighbour_recalls(exits[layer], reference, dims, **asked) for layer, dims in table.items()]
        perfect = np.ones((len(distinct), 1))
        replicates = bootstrap_means({"recall": np.concatenate([*columns, perfect], axis=1)}, **options)
    return quality_of(
        replicates,
        wanted,
        metric=measure if measure == "similarity" else f"recall@{k}",
        units={"your texts": len(pairs) if measure == "similarity" else len(distinct)},
        of="pairs" if measure == "similarity" else "texts",
        fidelity=True,
        precision=precision,
        name=name,
        details={"date": date.today().isoformat(), **similarity_details(encoder), **(details or {})},
    )


def check_measure(measure: str) -> None:
    """Raise a `UserError` unless a measure of fidelity is known."""
    if measure not in MEASURES:
        raise UserError(
            f"no fidelity is called '{measure}': expected one of {', '.join(MEASURES)}."
            f"{did_you_mean(measure, MEASURES)}"
        )
