"""Reading sentence-similarity sets: pairs of sentences with a gold score."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.evaluation.cosine import Floats, Indices, Vectors, correlation_of, pair_cosines
from matryoshka2d.evaluation.exits import as_exits, check_cut, dims_by_layer, sizes_of, turn
from matryoshka2d.evaluation.grid import Grid
from matryoshka2d.size import Size

PAPER_ORDER = ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr")
"""The seven sets of the 2DMSE and AnglE papers, in the order of their tables."""

_SUFFIXES = (".tsv", ".csv", ".jsonl")
_REQUIRED = ("score", "sentence1", "sentence2")
_Row = tuple[int, Mapping[str, Any]]


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

    A file has the columns ``score``, ``sentence1`` and ``sentence2``, and may have ``split``; others are
    not looked at. ``.tsv`` is tab-separated with a header line and no quoting, ``.csv`` is comma-separated
    with a header line and the usual quoting, ``.jsonl`` has one object a line. The name of the set is the
    name of the file.

    Parameters
    ----------
    path
        One file, several files, or a folder: all its files of these kinds. Of a folder, sets without
        that split are left out; a file that is named must have it.
    split
        Rows of this split are read; None reads all rows. A file without a ``split`` column is read whole.

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
    elif Path(path).is_dir():
        sets = _read_folder(Path(path), split)
    else:
        sets = [_read_set(Path(path), split)]
    _check_names(sets)
    return sets


def _read_folder(folder: Path, split: str | None) -> list[StsSet]:
    files = sorted((f for f in folder.iterdir() if f.suffix in _SUFFIXES), key=_paper_order)
    if not files:
        raise UserError(f"no STS file in {folder}: expected files that end in {', '.join(_SUFFIXES)}")
    rows = {file: list(_rows(file)) for file in files}
    with_split = [file for file in files if not rows[file] or _of_split(rows[file], split)]
    if not with_split:
        raise _no_split(folder, [row for file in files for row in rows[file]], split)
    return [_to_set(file, rows[file], split) for file in with_split]


def _paper_order(file: Path) -> tuple[int, str]:
    known = file.stem in PAPER_ORDER
    return (PAPER_ORDER.index(file.stem) if known else len(PAPER_ORDER), file.name)


def _read_set(file: Path, split: str | None) -> StsSet:
    if not file.exists():
        raise UserError(f"{file} does not exist: expected an STS file or a folder of them")
    if file.suffix not in _SUFFIXES:
        raise UserError(f"{file}: expected a file that ends in {', '.join(_SUFFIXES)}")
    return _to_set(file, list(_rows(file)), split)


def _to_set(file: Path, rows: list[_Row], split: str | None) -> StsSet:
    if not rows:
        raise UserError(f"{file} has no rows: expected a header line and one pair of sentences a line")
    chosen = _of_split(rows, split)
    if not chosen:
        raise _no_split(file, rows, split)
    return StsSet(
        file.stem,
        tuple(_text(file, line, row, "sentence1") for line, row in chosen),
        tuple(_text(file, line, row, "sentence2") for line, row in chosen),
        np.array([_score(file, line, row) for line, row in chosen]),
    )


def _of_split(rows: list[_Row], split: str | None) -> list[_Row]:
    """Return the rows of a split; a row that names none belongs to every split."""
    return [(line, row) for line, row in rows if split is None or row.get("split", split) == split]


def _no_split(place: Path, rows: list[_Row], split: str | None) -> UserError:
    splits = sorted({str(row["split"]) for _, row in rows if "split" in row})
    hint = did_you_mean(str(split), splits)
    return UserError(
        f"no row with split '{split}' in {place}: the splits there are {', '.join(splits)}.{hint}"
    )


def _text(file: Path, line: int, row: Mapping[str, Any], column: str) -> str:
    text = row[column]
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{file} line {line}: {column} is empty, expected a sentence")
    return text


def _score(file: Path, line: int, row: Mapping[str, Any]) -> float:
    try:
        score = float(row["score"])
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{file} line {line}: score '{row['score']}' is not a number")
    return score


def _check_names(sets: list[StsSet]) -> None:
    names = [pairs.name for pairs in sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two sets are called '{twice[0]}': rename one of the files")


def _rows(file: Path) -> Iterator[_Row]:
    """Yield (line number, column → value), the columns checked."""
    readers: dict[str, Callable[[Path, str], Iterator[_Row]]] = {
        ".tsv": _tsv_rows,
        ".csv": _csv_rows,
        ".jsonl": json_lines,
    }
    for line, row in readers[file.suffix](file, read_text(file)):
        missing = [column for column in _REQUIRED if column not in row]
        if missing:
            raise UserError(
                f"{file} line {line}: no column '{missing[0]}', "
                f"expected {', '.join(_REQUIRED)} and maybe split"
            )
        yield line, row


def _tsv_rows(file: Path, text: str) -> Iterator[_Row]:
    header: list[str] = []
    # Not splitlines(): a sentence may hold one of the rarer line separators of Unicode.
    for line, content in enumerate(text.split("\n"), start=1):
        fields = content.removesuffix("\r").split("\t")
        if not header:
            header = _header(file, fields)
        elif content.strip():
            yield line, _named(file, line, header, fields)


def _csv_rows(file: Path, text: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""))
    header: list[str] = []
    for fields in reader:
        if not header:
            header = _header(file, fields)
        elif fields:
            yield reader.line_num, _named(file, reader.line_num, header, fields)


def _header(file: Path, fields: list[str]) -> list[str]:
    missing = [column for column in _REQUIRED if column not in fields]
    if missing:
        raise UserError(
            f"{file} line 1: no column '{missing[0]}' in the header, expected {', '.join(_REQUIRED)} "
            f"and maybe split, found {', '.join(fields)}"
        )
    return fields


def _named(file: Path, line: int, header: list[str], fields: list[str]) -> dict[str, str]:
    if len(fields) != len(header):
        raise UserError(f"{file} line {line}: {len(fields)} columns, expected {len(header)} as in the header")
    return dict(zip(header, fields, strict=True))


def json_lines(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (line number, object) for every line that is not blank."""
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise UserError(f"{file} line {line}: not JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise UserError(f"{file} line {line}: expected a JSON object such as {{...}}")
        yield line, row


def read_text(file: Path) -> str:
    """Return the text of a UTF-8 file, without the mark that some editors put first."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error


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
    """

    sets: tuple[StsSet, ...]
    sizes: tuple[Size, ...]
    vectors: Mapping[int, Vectors]
    pairs: Mapping[str, Indices]
    fit: Mapping[int, Vectors] = field(default_factory=dict)

    def cosines(
        self, sizes: Iterable[Size] | None = None, *, cut: str = "prefix", seed: int = 0
    ) -> dict[str, Floats]:
        """Return the cosine of every pair at every size, for statistics over pairs.

        Parameters
        ----------
        sizes
            Ascending; all of `self.sizes` by default.
        cut, seed
            As in `matryoshka2d.evaluation.turn`.

        Returns
        -------
        dict
            Set name → float64 [pairs, sizes], rows in the order of the set's ``gold``.
        """
        blocks: dict[str, list[Floats]] = {name: [] for name in self.pairs}
        for layer, dims in dims_by_layer(self.sizes if sizes is None else sizes).items():
            turned = turn(self.vectors[layer], cut, fit=self.fit.get(layer), seed=seed)
            for name, pairs in self.pairs.items():
                blocks[name].append(pair_cosines(turned, pairs, dims))
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
        return Grid(self.sizes, scores, metric, cut, name, {**counts, **(details or {})})


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
        If the model lacks a size.
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
    vectors = {layer: exit_vectors[: len(rows)] for layer, exit_vectors in exits.items()}
    fit = {layer: exit_vectors[len(rows) :] for layer, exit_vectors in exits.items()} if fit_texts else {}
    return EncodedSts(tuple(sets), wanted, vectors, pairs, fit)


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
    >>> from matryoshka2d.encoder.loading import default_model_path
    >>> from matryoshka2d.encoder.elastic import ElasticEncoder
    >>> encoder = ElasticEncoder(default_model_path(), device="cpu")
    >>> pairs = StsSet("toy", ("a cat", "a cat"), ("one cat", "the sea"), np.array([5.0, 0.0]))
    >>> sts_grid(encoder, [pairs], sizes="1,6x32,384").mean("6x384")
    100.0
    """
    correlation_of(metric), check_cut(cut)  # before the long work
    return encode_sts(model, sets, sizes=sizes, **encoding).grid(metric=metric, cut=cut, seed=seed, name=name)
