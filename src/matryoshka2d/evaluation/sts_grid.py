"""Sentence similarity over the grid: every distinct text is encoded once, every size is read from that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from matryoshka2d.evaluation.correlation import correlation_of
from matryoshka2d.evaluation.cosine import Floats, Indices, Vectors
from matryoshka2d.evaluation.cuts import check_cut, turn
from matryoshka2d.evaluation.exits import as_exits, dims_by_layer, finite, sizes_of
from matryoshka2d.evaluation.grid import Grid
from matryoshka2d.evaluation.index_precision import kept_widths
from matryoshka2d.evaluation.similarity import Similarity, similarity_details, similarity_of
from matryoshka2d.evaluation.sts import StsSet
from matryoshka2d.size import Size


@dataclass(frozen=True)
class EncodedSts:
    """The vectors of sentence-similarity sets at every exit; all grids and statistics are read from it.

    Made by `encode_sts`.

    Parameters
    ----------
    sets
        The sets.
    sizes
        The sizes that are read when none are named.
    vectors
        layer → float32 [distinct texts, width].
    pairs
        Set name → int64 [pairs, 2]: rows of the vectors.
    fit
        layer → float32 [texts, width] on which a PCA cut is fitted; empty to fit on the texts themselves.
    similarity
        How two vectors are compared: the model's own similarity.
    details
        What a reader must know of the model, as it stands in the grids: see `similarity_details`.
    """

    sets: tuple[StsSet, ...]
    sizes: tuple[Size, ...]
    vectors: Mapping[int, Vectors]
    pairs: Mapping[str, Indices]
    fit: Mapping[int, Vectors] = field(default_factory=dict)
    similarity: Similarity = field(default_factory=Similarity)
    details: Mapping[str, Any] = field(default_factory=dict)

    def cosines(
        self,
        sizes: Iterable[Size] | None = None,
        *,
        cut: str = "prefix",
        seed: int = 0,
        precision: str = "float32",
    ) -> dict[str, Floats]:
        """Return the similarity of every pair at every size, for statistics over pairs: for most models "
        "its cosine.

        Parameters
        ----------
        sizes
            Ascending; all of `self.sizes` by default.
        cut, seed
            As in `matryoshka2d.evaluation.turn`.
        precision
            How an index keeps both vectors of a pair: ``"float32"``, ``"int8"`` or ``"binary"``. The ranges
            of int8 are learnt from the texts of all sets.

        Returns
        -------
        dict
            Set name → float64 [pairs, sizes], rows in the order of the set's ``gold``.
        """
        blocks: dict[str, list[Floats]] = {name: [] for name in self.pairs}
        for layer, dims in dims_by_layer(self.sizes if sizes is None else sizes).items():
            turned = turn(self.vectors[layer], cut, fit=self.fit.get(layer), seed=seed)
            for vectors, widths in kept_widths(turned, dims, precision, unit=self.similarity.unit):
                for name, pairs in self.pairs.items():
                    blocks[name].append(self.similarity.of_pairs(vectors, pairs, widths))
        return {name: np.concatenate(columns, axis=1) for name, columns in blocks.items()}

    def grid(
        self,
        *,
        metric: str = "spearman",
        cut: str = "prefix",
        seed: int = 0,
        name: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> Grid:
        """Return the grid: the correlation of cosines and gold scores, pooled over all rows of a set.

        Parameters
        ----------
        metric
            ``"spearman"``, the custom of the field, or ``"pearson"``.
        cut, seed
            How the dims are chosen: see `matryoshka2d.evaluation.turn`.
        name, details
            Kept in the grid.
        """
        correlation_of(metric)
        return self.grid_of(
            self.cosines(cut=cut, seed=seed), metric=metric, cut=cut, name=name, details=details
        )

    def grid_of(
        self,
        cosines: Mapping[str, Floats],
        *,
        metric: str = "spearman",
        cut: str = "prefix",
        name: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> Grid:
        """Return the grid of cosines that are there already, as from `cosines` at all sizes."""
        correlation = correlation_of(metric)
        scores = {
            pairs.name: tuple((100 * correlation(cosines[pairs.name], pairs.gold)).tolist())
            for pairs in self.sets
        }
        counts = {"pairs": {pairs.name: len(pairs) for pairs in self.sets}}
        known = {**counts, **self.details, **(details or {})}
        return Grid(self.sizes, scores, metric, cut, name, known).noted()


def encode_sts(
    model: Any,
    sets: Sequence[StsSet],
    *,
    sizes: str | Iterable[str | Size] | None = None,
    fit_texts: Sequence[str] = (),
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 64,
    show_progress_bar: bool = False,
) -> EncodedSts:
    """Encode the distinct texts of all sets in one pass that yields every exit.

    Parameters
    ----------
    model
        An `ElasticEncoder`; or a plain SentenceTransformer, which has its full depth only.
    sets
        What `read_sts` gives.
    sizes
        As ``"1-6x8,16,32"``; by default those that the model shows.
    fit_texts
        Texts on which a PCA cut is fitted. By default it is fitted on the evaluated texts themselves,
        without labels, which flatters the PCA; name training texts for a PCA as it would be deployed.
    prompt_name, prompt
        As in ``SentenceTransformer.encode``.
    batch_size
        Texts a batch.
    show_progress_bar
        Whether to draw progress.

    Raises
    ------
    UserError
        If the model lacks a size, or its vectors hold NaN.
    """
    encoder = as_exits(model)
    wanted = sizes_of(encoder, sizes)
    rows: dict[str, int] = {}
    pairs = {
        one.name: np.array(
            [
                (rows.setdefault(left, len(rows)), rows.setdefault(right, len(rows)))
                for left, right in zip(one.sentence1, one.sentence2, strict=True)
            ],
            dtype=np.int64,
        )
        for one in sets
    }
    exits = encoder.exits(
        [*rows, *fit_texts],
        layers=list(dims_by_layer(wanted)),
        prompt_name=prompt_name,
        prompt=prompt,
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
    )
    finite(exits, [*rows, *fit_texts])
    vectors = {layer: exit_vectors[: len(rows)] for layer, exit_vectors in exits.items()}
    fit = {layer: exit_vectors[len(rows) :] for layer, exit_vectors in exits.items()} if fit_texts else {}
    return EncodedSts(
        tuple(sets), wanted, vectors, pairs, fit, similarity_of(encoder), similarity_details(encoder)
    )


def sts_grid(
    model: Any,
    sets: Sequence[StsSet],
    *,
    sizes: str | Iterable[str | Size] | None = None,
    metric: str = "spearman",
    cut: str = "prefix",
    seed: int = 0,
    name: str = "",
    **encoding: Any,
) -> Grid:
    """Evaluate a model on sentence-similarity sets at every size, from one pass over the texts.

    For several grids of one model (a PCA cut beside the prefix, Pearson beside Spearman) call
    `encode_sts` once and read them all from what it gives.

    Parameters
    ----------
    model, sets, sizes
        As in `encode_sts`.
    metric, cut, seed, name
        As in `EncodedSts.grid`.
    **encoding
        ``fit_texts``, ``prompt_name``, ``prompt``, ``batch_size``, ``show_progress_bar`` of `encode_sts`.

    Examples
    --------
    >>> from matryoshka2d.default_model import default_model_path
    >>> from matryoshka2d.encoder import ElasticEncoder
    >>> encoder = ElasticEncoder(default_model_path(), device="cpu")
    >>> pairs = StsSet("toy", ("a cat", "a cat"), ("one cat", "the sea"), np.array([5.0, 0.0]))
    >>> sts_grid(encoder, [pairs], sizes="1,6x32,384").mean("6x384")
    100.0
    """
    correlation_of(metric), check_cut(cut)  # before the long work
    return encode_sts(model, sets, sizes=sizes, **encoding).grid(metric=metric, cut=cut, seed=seed, name=name)
