"""Reading sentence-similarity sets: pairs of sentences with a gold score."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from matryoshka2d.data.checks import checked_numbers, checked_texts
from matryoshka2d.data.lines import without_compression
from matryoshka2d.data.row_formats import SCORED_PAIRS, recognize
from matryoshka2d.data.rows import (
    EVERY_SPLIT,
    EXTENSIONS,
    SPLIT_COLUMN,
    Table,
    extension_of,
    is_hidden,
    is_one_set,
    read_tables,
)
from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.evaluation.cosine import Floats, Indices, Vectors, correlation_of
from matryoshka2d.evaluation.exits import as_exits, check_cut, dims_by_layer, finite, sizes_of, turn
from matryoshka2d.evaluation.grid import Grid
from matryoshka2d.evaluation.index_precision import kept_widths
from matryoshka2d.evaluation.similarity import Similarity, similarity_details, similarity_of
from matryoshka2d.size import Size

PAPER_ORDER = ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr")
"""The seven sets of the 2DMSE and AnglE papers, in the order of their tables."""

# In a folder, files of these kinds are notes about the sets.
_NO_SETS = (".txt", ".json")


@dataclass(frozen=True)
class StsSet:
    """One sentence-similarity set.

    Parameters
    ----------
    name
        How it is shown: the name of its file without the suffix.
    sentence1, sentence2
        The two sides, of equal length.
    gold
        Float64 [pairs]: how similar people found them; any scale.

    Raises
    ------
    UserError
        If the lengths differ, or the gold never varies: no correlation exists then.

    Examples
    --------
    >>> pairs = StsSet("toy", ("a", "b"), ("c", "d"), np.array([0.0, 5.0]))
    >>> len(pairs)
    2
    """

    name: str
    sentence1: tuple[str, ...]
    sentence2: tuple[str, ...]
    gold: Floats

    def __post_init__(self) -> None:
        if not len(self.sentence1) == len(self.sentence2) == len(self.gold):
            raise UserError(
                f"set {self.name}: {len(self.sentence1)} and {len(self.sentence2)} sentences but "
                f"{len(self.gold)} scores, expected as many of each"
            )
        if len(self.gold) == 0 or np.ptp(self.gold) == 0:
            raise UserError(
                f"set {self.name}: {len(self.gold)} pairs, all with the same score: "
                f"expected at least two different ones"
            )

    def __len__(self) -> int:
        return len(self.gold)


def read_sts(
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], split: str | None = "test"
) -> list[StsSet]:
    """Read sentence-similarity sets from files or from a folder of them.

    A file has the columns ``score``, ``sentence1`` and ``sentence2``, or other usual names for them, and may
    have ``split``; others are not looked at. It is of any form that `matryoshka2d.data.read_rows` takes; a
    ``.tsv`` has no quoting. The name of the set is the name of the file.

    Parameters
    ----------
    path
        One file, several files, or a folder: all its files but ``.txt`` and ``.json``. Of a folder, sets
        without that split are left out; a file that is named must have it. A folder that ``datasets`` saved,
        or whose files are named after splits, is one set.
    split
        Rows of this split are read; None reads all rows. A file without a ``split`` column is read whole.
        ``dev`` and ``validation`` are the same.

    Returns
    -------
    list of StsSet
        From a folder: sts12 to sts16, stsb, sickr first, then others by name. Files: in the order given.

    Raises
    ------
    UserError
        One line that names file and line, if something is missing, empty or not a number.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> text = "score\\tsentence1\\tsentence2\\n5\\ta cat\\tone cat\\n0\\ta cat\\tthe sea\\n"
    >>> _ = (folder / "toy.tsv").write_text(text)
    >>> [(pairs.name, len(pairs)) for pairs in read_sts(folder)]
    [('toy', 2)]
    """
    if not isinstance(path, (str, os.PathLike)):
        sets = [_read_set(Path(file), split) for file in path]
    elif Path(path).is_dir() and not is_one_set(Path(path)):
        sets = _read_folder(Path(path), split)
    else:
        sets = [_read_set(Path(path), split)]
    _check_names(sets)
    return sets


def _read_folder(folder: Path, split: str | None) -> list[StsSet]:
    files = sorted((child for child in folder.iterdir() if _is_set(child)), key=_paper_order)
    if not files:
        kinds = ", ".join(kind for kind in EXTENSIONS if kind not in _NO_SETS)
        raise UserError(f"no STS file in {folder}: expected files that end in {kinds}")
    tables = {file: _tables(file, split) for file in files}
    with_split = [file for file in files if _has_split(tables[file], split)]
    if not with_split:
        raise _no_split(folder, [table for file in files for table in tables[file]], split)
    return [_to_set(file, tables[file], split) for file in with_split]


def _is_set(child: Path) -> bool:
    if is_hidden(child):
        return False
    return is_one_set(child) if child.is_dir() else extension_of(child) not in (None, *_NO_SETS)


def _paper_order(file: Path) -> tuple[int, str]:
    known = _name(file) in PAPER_ORDER
    return (PAPER_ORDER.index(_name(file)) if known else len(PAPER_ORDER), file.name)


def _name(file: Path) -> str:
    return file.name if file.is_dir() else Path(without_compression(file)).stem


def _read_set(file: Path, split: str | None) -> StsSet:
    tables = _tables(file, split)
    if not _has_split(tables, split):
        raise _no_split(file, tables, split)
    return _to_set(file, tables, split)


def _tables(file: Path, split: str | None) -> list[Table]:
    return list(read_tables(file, EVERY_SPLIT if split is None else split))


def _has_split(tables: Sequence[Table], split: str | None) -> bool:
    return any(table.of_split(split) for table in tables)


def _to_set(file: Path, tables: Sequence[Table], split: str | None) -> StsSet:
    names = list(dict.fromkeys(name for table in tables for name in table.names))
    columns = dict(recognize(names, source=str(file), formats=(SCORED_PAIRS,)).columns)
    chosen = [(table, table.of_split(split)) for table in tables]
    left, right = (
        tuple(text for table, rows in chosen for text in _sentences(table, columns[side], rows))
        for side in ("sentence1", "sentence2")
    )
    gold = [score for table, rows in chosen for score in checked_numbers(table, columns["score"], rows)]
    return StsSet(_name(file), left, right, np.array(gold))


def _sentences(table: Table, column: str, rows: Sequence[int]) -> list[str]:
    sentences = checked_texts(table, column, rows)
    for row, text in zip(rows, sentences, strict=True):
        if not text.strip():
            raise UserError(f"{table.place(row)}: column '{column}' is empty: expected a sentence")
    return sentences


def _no_split(place: Path, tables: Sequence[Table], split: str | None) -> UserError:
    splits = sorted({str(row[SPLIT_COLUMN]) for table in tables for row in table.rows if SPLIT_COLUMN in row})
    hint = did_you_mean(str(split), splits)
    return UserError(
        f"no row with split '{split}' in {place}: the splits there are {', '.join(splits)}.{hint}"
    )


def _check_names(sets: list[StsSet]) -> None:
    names = [pairs.name for pairs in sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two sets are called '{twice[0]}': rename one of the files")


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
            rotated = turn(self.vectors[layer], cut, fit=self.fit.get(layer), seed=seed)
            for vectors, widths in kept_widths(rotated, dims, precision, unit=self.similarity.unit):
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
    >>> from matryoshka2d.encoder.default_model import default_model_path
    >>> from matryoshka2d.encoder.elastic import ElasticEncoder
    >>> encoder = ElasticEncoder(default_model_path(), device="cpu")
    >>> pairs = StsSet("toy", ("a cat", "a cat"), ("one cat", "the sea"), np.array([5.0, 0.0]))
    >>> sts_grid(encoder, [pairs], sizes="1,6x32,384").mean("6x384")
    100.0
    """
    correlation_of(metric), check_cut(cut)  # before the long work
    return encode_sts(model, sets, sizes=sizes, **encoding).grid(metric=metric, cut=cut, seed=seed, name=name)
