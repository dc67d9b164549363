"""The four forms of training data, and how the columns of a file are recognized as one of them.

Each form is one row of `FORMATS`; each column has one row of usual names in `USUAL_NAMES`. Teaching the
package another name for a column is adding a word there.

>>> recognize(["query", "answer", "url"]).format.name
'positive pairs'
>>> recognize(["premise", "hypothesis", "label"]).columns
(('sentence1', 'premise'), ('sentence2', 'hypothesis'), ('score', 'label'))
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matryoshka2d.data.rows import title_column
from matryoshka2d.errors import UserError, did_you_mean

SCORE = "score"
GROUP = "group"
NO_GROUP = -1
_NEGATIVE = "negative"

_FIRST = (
    *("anchor", "query", "question", "premise", "first"),
    *("sentence1", "text1", "question1", "sent1", "sentencea", "texta"),
)
_SECOND = (
    *(
        "positive",
        "pos",
        "answer",
        "response",
        "document",
        "passage",
        "hypothesis",
        "paraphrase",
        "entailment",
    ),
    *("second", "sentence2", "text2", "question2", "sent2", "sentenceb", "textb"),
)

# Names are compared without case, spaces, hyphens and underscores: "Sentence_A" is "sentencea".
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "anchor": _FIRST,
    "positive": _SECOND,
    "sentence1": _FIRST,
    "sentence2": _SECOND,
    "text": ("text", "sentence", "content", "body", "passage", "document"),
    SCORE: ("score", "scores", "label", "labels", "similarity", "similarityscore", "relatednessscore"),
    GROUP: ("group", "groupid", "cluster", "clusterid"),
}
_USUAL_NEGATIVE = re.compile(r"(?:hard)?neg(?:ative)?s?(\d*)|contradiction(\d*)")
_NAMED_NEGATIVE = re.compile(r"negative(?:_(\d+))?")


@dataclass(frozen=True)
class Format:
    """One form of training data.

    Parameters
    ----------
    name
        What messages call it, as in ``"positive pairs"``.
    columns
        The columns that every row has, in the order in which losses expect them. A format with
        ``negative`` takes any number of negatives.
    """

    name: str
    columns: tuple[str, ...]

    @property
    def scored(self) -> bool:
        """Whether its rows carry a score.

        >>> SCORED_PAIRS.scored, TRIPLETS.scored
        (True, False)
        """
        return SCORE in self.columns


SCORED_PAIRS = Format("scored pairs", ("sentence1", "sentence2", SCORE))
POSITIVE_PAIRS = Format("positive pairs", ("anchor", "positive"))
TRIPLETS = Format("triplets", ("anchor", "positive", _NEGATIVE))
TEXTS = Format("texts", ("text",))

# The most telling first: a file with a negative column is one of triplets, even if it also has a score.
FORMATS = (TRIPLETS, SCORED_PAIRS, POSITIVE_PAIRS, TEXTS)


@dataclass(frozen=True)
class Layout:
    """A format and where a file keeps its columns.

    Parameters
    ----------
    format
        The recognized format.
    columns
        Pairs (canonical name, name in the file), in canonical order. One negative is called
        ``negative``; several are ``negative_1``, ``negative_2``, …: the trainer of
        sentence-transformers gathers inputs by prefix and would mix ``negative`` with ``negative_2``.
    group
        The file's column of paraphrase groups, or None.
    title
        The file's column of titles that belong before its texts, or None.
    """

    format: Format
    columns: tuple[tuple[str, str], ...]
    group: str | None = None
    title: str | None = None


def recognize(
    found: Sequence[str],
    named: Mapping[str, str] | None = None,
    *,
    source: str = "the data",
    formats: Sequence[Format] = FORMATS,
) -> Layout:
    """Recognize a format by the names of the columns.

    Parameters
    ----------
    found
        The names of the columns, as in the header of a file.
    named
        Canonical name → name in the file, as in ``{"anchor": "q", "positive": "p"}``. Default: none,
        the usual names are looked for. Name columns when theirs are unusual or when several would
        fit. If the named ones make up a whole format, the data is read as that format and no other
        column but the group is looked for; otherwise the missing ones are found by their usual names.
    source
        What messages call the data: the name of the file.
    formats
        Which formats it may have, the most telling first.

    Raises
    ------
    UserError
        If a named column is missing, or no format is recognized, or two columns fit one place.

    Examples
    --------
    >>> recognize(["q", "p", "score"], {"anchor": "q", "positive": "p"}).format.name
    'positive pairs'
    >>> recognize(["anchor", "positive", "neg_1", "neg_2"]).columns[2:]
    (('negative_1', 'neg_1'), ('negative_2', 'neg_2'))
    """
    named = dict(named or {})
    _check_named(found, named, source)
    wanted = {_NEGATIVE if _NAMED_NEGATIVE.fullmatch(name) else name for name in named} - {GROUP}
    candidates = [known for known in formats if wanted <= set(known.columns)]
    if not candidates:
        raise UserError(
            f"{source}: no format has the columns {_listed(sorted(named))}: expected {_expected(formats)}"
        )
    whole = [known for known in candidates if set(known.columns) == wanted]
    free = [name for name in found if name not in named.values()]
    for known in whole or candidates:
        columns = _match(known, free, named, source)
        if columns is not None:
            # A text that was named is wanted alone.
            title = title_column(free, columns[0][1]) if known == TEXTS and "text" not in named else None
            return Layout(known, columns, _find_group(free, named, source), title)
    naming = ", or name yours, as in columns anchor=QUESTION positive=ANSWER" if formats is FORMATS else ""
    raise UserError(
        f"{source}: the columns are not recognized: found {_listed(found)}; "
        f"expected {_expected(formats)}{naming}"
    )


def format_of(columns: Iterable[str]) -> Format:
    """Return the format of a data set that `read_rows` returned, from its canonical column names.

    >>> format_of(["anchor", "positive", "negative_1", "negative_2", "group"]).name
    'triplets'
    """
    return recognize(list(columns)).format


def text_columns(columns: Iterable[str], *, labels: Iterable[str] = (SCORE,)) -> list[str]:
    """Return the columns that hold texts: all but the labels, the group and the trainer's own.

    >>> text_columns(["sentence1", "sentence2", "score", "group"])
    ['sentence1', 'sentence2']
    """
    other = {*labels, GROUP, "dataset_name"}
    return [name for name in columns if name not in other]


def _check_named(found: Sequence[str], named: Mapping[str, str], source: str) -> None:
    for name, column in named.items():
        if name not in USUAL_NAMES and not _NAMED_NEGATIVE.fullmatch(name):
            known = [*USUAL_NAMES, _NEGATIVE]
            raise UserError(
                f"{source}: '{name}' is no column of training data: expected {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
        if column not in found:
            raise UserError(
                f"{source}: there is no column '{column}' to use as {name}: found {_listed(found)}."
                f"{did_you_mean(column, found)}"
            )
    repeated = {column for column in named.values() if list(named.values()).count(column) > 1}
    if repeated:
        raise UserError(f"{source}: column {_listed(sorted(repeated))} is named for two places: name it once")


def _match(
    known: Format, free: Sequence[str], named: Mapping[str, str], source: str
) -> tuple[tuple[str, str], ...] | None:
    single = [name for name in known.columns if name != _NEGATIVE]
    fitting = {name: [named[name]] if name in named else _fitting(name, free) for name in single}
    negatives = _negatives(free, named) if _NEGATIVE in known.columns else []
    if not all(fitting.values()) or bool(negatives) != (_NEGATIVE in known.columns):
        return None
    # Only now is a choice between two columns the user's to make: the format is found.
    return (*((name, _only(name, found, source)) for name, found in fitting.items()), *negatives)


def _find_group(free: Sequence[str], named: Mapping[str, str], source: str) -> str | None:
    fitting = [named[GROUP]] if GROUP in named else _fitting(GROUP, free)
    return _only(GROUP, fitting, source) if fitting else None


def _fitting(name: str, free: Sequence[str]) -> list[str]:
    """Return the columns that could have that place; a canonical name comes before merely usual ones."""
    usual = [column for column in free if _folded(column) in USUAL_NAMES[name]]
    canonical = [column for column in usual if column in USUAL_NAMES]
    # Where a similarity stands beside a label, the label is of another kind, as in SICK.
    scores = [column for column in usual if name == SCORE and not _folded(column).startswith("label")]
    return [column for column in usual if column == name] or canonical or scores or usual


def _only(name: str, fitting: Sequence[str], source: str) -> str:
    if len(fitting) > 1:
        raise UserError(
            f"{source}: columns {_listed(fitting)} could each be the {name}: "
            f"name the right one, as in columns {name}={fitting[0]}"
        )
    return fitting[0]


def _negatives(free: Sequence[str], named: Mapping[str, str]) -> list[tuple[str, str]]:
    chosen = {name: column for name, column in named.items() if _NAMED_NEGATIVE.fullmatch(name)}
    numbered = [(_number(_NAMED_NEGATIVE.fullmatch(name)), column) for name, column in chosen.items()]
    if not numbered:
        matches = ((column, _USUAL_NEGATIVE.fullmatch(_folded(column))) for column in free)
        numbered = [(_number(match), column) for column, match in matches if match]
    # A stable sort: columns without a number keep the order of the file.
    ordered = [column for _, column in sorted(numbered, key=lambda pair: pair[0])]
    if len(ordered) == 1:
        return [(_NEGATIVE, ordered[0])]
    return [(f"{_NEGATIVE}_{place}", column) for place, column in enumerate(ordered, start=1)]


def _number(match: re.Match[str] | None) -> int:
    return int(next(filter(None, match.groups()), 0)) if match else 0


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())


def _expected(formats: Sequence[Format]) -> str:
    return " or ".join("+".join(known.columns) for known in formats)


def _listed(names: Iterable[str], longest: int = 40, most: int = 12) -> str:
    """List names within one line, even where a first row of long texts stood in for the header."""
    short = [name if len(name) <= longest else name[: longest - 1] + "…" for name in names]
    shown = [f"'{name}'" for name in short[:most]] + (["…"] if len(short) > most else [])
    return ", ".join(shown) or "none"
