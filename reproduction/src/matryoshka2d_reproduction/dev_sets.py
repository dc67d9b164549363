"""Dev sets that share nothing with a test set: what hyper-parameters may be chosen on.

1,131 of the 1,500 dev pairs of STS-B are test pairs of STS12 to STS16: whoever chooses on them chooses
on test.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from matryoshka2d.data.rows import read_tables
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.retrieval_sets import RetrievalSet
from matryoshka2d.evaluation.sts import StsSet, read_sts

DEV_FILES = ("stsb.tsv", "sickr.tsv")
"""The sets of the paper that have a dev split."""

_NOT_A_WORD = re.compile(r"[^\w]+")


def folded(left: str, right: str) -> frozenset[str]:
    """Return a pair without its order, case, spacing and punctuation: how pairs are told to be the same.

    >>> folded("A cat.", "one dog") == folded("One  dog", "a cat")
    True
    """
    return frozenset(" ".join(_NOT_A_WORD.split(text.casefold())).strip() for text in (left, right))


def pairs_of(sets: Iterable[StsSet]) -> set[frozenset[str]]:
    """Return the folded pairs of some sets."""
    return {
        folded(left, right) for one in sets for left, right in zip(one.sentence1, one.sentence2, strict=True)
    }


def without_pairs(one: StsSet, barred: set[frozenset[str]]) -> StsSet:
    """Return a set without the pairs that are barred.

    Raises
    ------
    UserError
        If nothing that varies is left.
    """
    kept = [
        row
        for row in zip(one.sentence1, one.sentence2, one.gold.tolist(), strict=True)
        if folded(row[0], row[1]) not in barred
    ]
    left, right, gold = zip(*kept, strict=True) if kept else ((), (), ())
    return StsSet(one.name, tuple(left), tuple(right), np.array(gold, dtype=np.float64))


def read_dev_sts(
    source: str | os.PathLike[str], tested: Sequence[StsSet] | None = None, *, split: str = "dev"
) -> list[StsSet]:
    """Read the dev pairs of STS-B and SICK-R, or of one file, that are in no test set.

    Parameters
    ----------
    source
        The folder of the seven STS sets, ``stsb.tsv`` and ``sickr.tsv`` among them; or one file with a dev
        split of its own, as STS-B in another language.
    tested
        The sets that results are reported on; the test rows of the source by default.
    split
        ``dev``, or ``train`` for more pairs where nothing is trained on them.

    Returns
    -------
    list of StsSet
        ``stsb-dev`` and ``sickr-dev``, or the file's own.

    Raises
    ------
    UserError
        If a file is missing, or every pair is a test pair.
    """
    place = Path(source)
    files = [place / name for name in DEV_FILES] if place.is_dir() else [place]
    barred = pairs_of(read_sts(place) if tested is None else tested)
    sets = []
    for one in read_sts(files, split=split):
        kept = without_pairs(one, barred)
        sets.append(StsSet(f"{one.name}-{split}", kept.sentence1, kept.sentence2, kept.gold))
    return sets


def read_dev_captions(path: str | os.PathLike[str], *, groups: int = 500) -> RetrievalSet:
    """Make a retrieval task of captions held out from training: find the other captions of the same picture.

    Parameters
    ----------
    path
        JSONL with ``anchor``, ``positive`` and ``group``: rows of one group describe one picture.
    groups
        How many pictures, evenly spaced over the file. The default has a standard error of about a point;
        raise it to tell closer methods apart.

    Returns
    -------
    RetrievalSet
        ``captions-dev``: the first caption of each picture asks, the others answer.

    Raises
    ------
    UserError
        If the file has no groups of two captions.
    """
    captions: dict[str, dict[str, None]] = {}
    file = Path(path)
    for table in read_tables(file):
        for number, row in enumerate(table.rows):
            if not all(isinstance(row.get(key), str) for key in ("anchor", "positive", "group")):
                raise UserError(f"{table.place(number)}: expected the texts anchor, positive and group")
            captions.setdefault(row["group"], {}).update(dict.fromkeys([row["anchor"], row["positive"]]))
    pictures = {group: list(texts) for group, texts in captions.items() if len(texts) > 1}
    if not pictures:
        raise UserError(f"{file} has no group of two captions: expected rows that share a group")
    chosen = np.linspace(0, len(pictures) - 1, min(groups, len(pictures))).astype(int)
    names = [list(pictures)[i] for i in chosen]
    corpus = {f"{name}/{i}": text for name in names for i, text in enumerate(pictures[name][1:])}
    queries = {name: pictures[name][0] for name in names}
    relevance = {name: {f"{name}/{i}": 1 for i in range(len(pictures[name]) - 1)} for name in names}
    return RetrievalSet("captions-dev", corpus, queries, relevance)
