"""How much a size still agrees with the original model, without any labels.

The reference is a set of vectors of the same texts, usually those of the original model at full size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from datetime import date
from typing import Any

import numpy as np

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.evaluation.bootstrap import bootstrap_means, bootstrap_spearman
from matryoshka2d.evaluation.cosine import (
    Floats,
    Indices,
    Vectors,
    aligned_cosines,
    look_alike,
    spearman,
    top_k,
)
from matryoshka2d.evaluation.exits import as_exits, check_cut, dims_by_layer, finite, sizes_of, turn
from matryoshka2d.evaluation.grid import Grid
from matryoshka2d.evaluation.index_precision import Keeper, kept_widths
from matryoshka2d.evaluation.quality import RESAMPLES, Quality, quality_of, with_full
from matryoshka2d.evaluation.similarity import COSINE, Similarity, similarity_details, similarity_of
from matryoshka2d.size import Size


def similarity_agreement(
    vectors: Vectors,
    reference: Vectors,
    dims: Sequence[int],
    *,
    pairs: int = 20_000,
    seed: int = 0,
    similarity: Similarity = COSINE,
) -> Floats:
    """Return Spearman's correlation between the similarities at each width and those of the reference.

    Parameters
    ----------
    vectors
        Float [texts, width]: one exit.
    reference
        Float [texts, any width]: the reference vectors of the same texts.
    dims
        Ascending widths.
    pairs
        At most so many pairs of texts, drawn without repeats; all pairs if there are no more. The default
        has a standard error of about 0.005 or less; raise it to tell closer sizes apart.
    seed
        Draws the pairs.
    similarity
        How vectors are compared.

    Returns
    -------
    numpy.ndarray
        Float64 [len(dims)], between -1 and 1; nan where all texts look alike.

    Raises
    ------
    UserError
        If the two do not have as many rows, or fewer than three.

    Examples
    --------
    >>> vectors = np.eye(4) + 0.1 * np.arange(4)
    >>> similarity_agreement(vectors, vectors, [4]).round(3).tolist()
    [1.0]
    """
    _check_rows(vectors, reference, at_least=3)
    chosen = _draw_pairs(len(vectors), pairs, seed)
    gold = similarity.of_pairs(reference, chosen, [reference.shape[1]])[:, 0]
    return spearman(similarity.of_pairs(vectors, chosen, dims), gold)


def _draw_pairs(texts: int, pairs: int, seed: int) -> Indices:
    """Return int64 [pairs, 2] with left > right: all pairs, or a sample of them without repeats."""
    total = texts * (texts - 1) // 2
    random = np.random.default_rng(seed)
    numbers = (
        np.arange(total) if total <= pairs else random.choice(total, size=pairs, replace=False, shuffle=False)
    )
    # Pairs are numbered row by row of a triangle: left is the largest with left (left - 1) / 2 <= number.
    # The square root may be off by one for large numbers; the two lines after it mend that.
    left = ((1 + np.sqrt(1 + 8 * numbers.astype(np.float64))) / 2).astype(np.int64)
    left -= left * (left - 1) // 2 > numbers
    left += left * (left + 1) // 2 <= numbers
    return np.stack([left, numbers - left * (left - 1) // 2], axis=1)


def neighbor_recall(
    vectors: Vectors,
    reference: Vectors,
    dims: Sequence[int],
    *,
    k: int = 10,
    similarity: Similarity = COSINE,
) -> Floats:
    """Return the share of each text's k nearest neighbors under the reference that are still among its k.

    Parameters
    ----------
    vectors
        Float [texts, width]: one exit.
    reference
        Float [texts, any width]: the reference vectors of the same texts.
    dims
        Ascending widths.
    k
        How many neighbors; the text itself is not one.
    similarity
        How vectors are compared.

    Returns
    -------
    numpy.ndarray
        Float64 [len(dims)], between 0 and 1: the mean over texts.

    Raises
    ------
    UserError
        If the two do not have as many rows, or no more than k.

    Examples
    --------
    >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> neighbor_recall(vectors, vectors, [2], k=1).tolist()
    [1.0]
    """
    means: Floats = neighbor_recalls(vectors, reference, dims, k=k, similarity=similarity).mean(axis=0)
    return means


def neighbor_recalls(
    vectors: Vectors,
    reference: Vectors,
    dims: Sequence[int],
    *,
    k: int = 10,
    similarity: Similarity = COSINE,
    precision: str = "float32",
) -> Floats:
    """Return the recall of every text by itself, for statistics over texts: float64 [texts, len(dims)].

    Parameters and errors are those of `neighbor_recall`; `precision` is how an index keeps the neighbors
    that are searched, whose reference is float32.
    """
    _check_rows(vectors, reference, at_least=k + 1)
    (expected,) = _neighbors(reference, reference, [reference.shape[1]], k, similarity)
    if precision == "float32":
        found = _neighbors(vectors, vectors, dims, k, similarity)
    else:
        keepers = [Keeper.fit(vectors, d, precision, unit=similarity.unit) for d in dims]
        found = [
            _neighbors(keeper.asked(vectors), keeper.kept(vectors), [keeper.dims], k, similarity)[0]
            for keeper in keepers
        ]
    return np.stack([_overlap(near, expected) for near in found], axis=1)


def _neighbors(
    asked: Vectors, held: Vectors, dims: Sequence[int], k: int, similarity: Similarity
) -> list[Indices]:
    """Return, for every width, the k nearest other rows of each row: int64 [rows, k]."""
    found: list[list[Indices]] = [[] for _ in dims]
    for rows, position, similar in similarity.of_blocks(asked, held, dims):
        similar[np.arange(len(similar)), np.arange(rows.start, rows.stop)] = -np.inf
        found[position].append(top_k(similar, k))
    return [np.concatenate(blocks) for blocks in found]


def _overlap(found: Indices, expected: Indices) -> Floats:
    shares: Floats = (found[:, :, None] == expected[:, None, :]).any(axis=2).mean(axis=1)
    return shares


def reference_cosine(vectors: Vectors, reference: Vectors, dims: Sequence[int]) -> Floats:
    """Return the mean cosine to the reference vectors cut to the same width: 1 less the drift.

    Parameters
    ----------
    vectors, reference
        Float [texts, width], in the same coordinates.
    dims
        Ascending widths, none above either width.

    Returns
    -------
    numpy.ndarray
        Float64 [len(dims)], between -1 and 1.

    Raises
    ------
    UserError
        If the two do not have as many rows and columns.

    Examples
    --------
    >>> reference_cosine(np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]]), [1, 2]).round(3).tolist()
    [1.0, 0.707]
    """
    _check_rows(vectors, reference, at_least=1)
    if vectors.shape[1] != reference.shape[1]:
        raise UserError(
            f"the reference has {reference.shape[1]} dims and the model {vectors.shape[1]}: "
            f"a cosine between them needs the same"
        )
    means: Floats = aligned_cosines(vectors, reference, dims).mean(axis=0)
    return means


def _check_rows(vectors: Sized, reference: Sized, *, at_least: int) -> None:
    if len(vectors) != len(reference):
        raise UserError(
            f"{len(vectors)} texts but {len(reference)} reference vectors: expected as many of each"
        )
    if len(vectors) < at_least:
        raise UserError(f"{len(vectors)} texts are too few: expected at least {at_least}")


def check_varies(reference: Vectors) -> None:
    """Raise a `UserError` if all texts look alike to the reference: nothing can agree with that."""
    if look_alike(reference):
        raise UserError(
            f"all {len(reference)} texts look alike to the full size, to which their vectors are the same: "
            f"similarity does not vary, so no size can agree with it; expected a model that tells them apart"
        )


def agreement_grids(
    model: Any,
    reference: Vectors,
    texts: Sequence[str],
    *,
    sizes: str | Iterable[str | Size] | None = None,
    k: int = 10,
    pairs: int = 20_000,
    seed: int = 0,
    cut: str = "prefix",
    name: str = "",
    **encoding: Any,
) -> dict[str, Grid]:
    """Compare a model at every size with reference vectors of the same texts, from one pass.

    Parameters
    ----------
    model
        An `ElasticEncoder`; or a plain SentenceTransformer, which has its full depth only.
    reference
        Float [texts, width]: usually the vectors of the original model at its full size.
    texts
        The texts, without repeats: a copy would be its own nearest neighbor.
    sizes
        As ``"1-6x8,16,32"``; by default those that the model shows.
    k
        Neighbors that count for the recall.
    pairs, seed
        As in `similarity_agreement`.
    cut
        How the dims are chosen: see `matryoshka2d.evaluation.turn`; a PCA is fitted on these texts.
    name
        Kept in the grids.
    **encoding
        ``prompt_name``, ``prompt``, ``batch_size``, ``show_progress_bar`` of ``exits``.

    Returns
    -------
    dict
        ``"similarity"``, ``"recall@k"`` and, for the prefix cut of a model as wide as the reference,
        ``"cosine"``: a `Grid` each, times 100.

    Raises
    ------
    UserError
        If the model lacks a size, there are too few texts, or they all look alike to the reference.
    """
    check_cut(cut)
    _check_rows(texts, reference, at_least=max(3, k + 1))
    check_varies(reference)
    encoder = as_exits(model)
    wanted = sizes_of(encoder, sizes)
    table = dims_by_layer(wanted)
    exits = finite(encoder.exits(list(texts), layers=list(table), **encoding), texts)
    similarity = similarity_of(encoder)
    recall = f"recall@{k}"
    scores: dict[str, list[float]] = {"similarity": [], recall: [], "cosine": []}
    for n, dims in table.items():
        rotated = turn(exits[n], cut, seed=seed)
        scores["similarity"] += similarity_agreement(
            rotated, reference, dims, pairs=pairs, seed=seed, similarity=similarity
        ).tolist()
        scores[recall] += neighbor_recall(rotated, reference, dims, k=k, similarity=similarity).tolist()
        if cut == "prefix" and rotated.shape[1] == reference.shape[1]:
            scores["cosine"] += reference_cosine(rotated, reference, dims).tolist()
    details = {"texts": len(texts), **similarity_details(encoder)}
    return {
        measure: Grid(wanted, {"texts": tuple(100 * v for v in values)}, measure, cut, name, details)
        for measure, values in scores.items()
        if values
    }


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
        each text's k nearest neighbors under the full size that are still among its k; choose it when the
        vectors are for search.
    precision, resamples, seed, name, details
        As in `sts_quality`.
    k
        Neighbors that count for the recall.
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
        columns = [neighbor_recalls(exits[layer], reference, dims, **asked) for layer, dims in table.items()]
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
