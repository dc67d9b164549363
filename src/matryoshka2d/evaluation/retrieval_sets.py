"""Retrieval sets and the files they come from: BEIR folders, SQuAD, XSum."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matryoshka2d.data.lines import numbered_lines, without_compression
from matryoshka2d.data.rows import extension_of, read_tables, with_title
from matryoshka2d.errors import UserError

_QRELS = ("qrels.tsv", "qrels/test.tsv")


@dataclass(frozen=True)
class RetrievalSet:
    """Documents, queries, and which documents answer which query.

    Parameters
    ----------
    name
        How it is shown.
    corpus, queries
        id → text. A query that is not judged is not evaluated.
    relevance
        Query id → document id → grade, a whole number; documents not named, and grades below 1, are not
        relevant. Judged queries that are not among the queries are left out; judged documents that the corpus
        lacks cannot be found, and stay in the ideal ranking. `notes` says so.
    remarks
        What else a reader of the scores must know of the set, a line each; `notes` begins with them.

    Raises
    ------
    UserError
        If no query has a relevant document, or none of the judged queries or relevant documents is there.

    Examples
    --------
    >>> RetrievalSet("toy", {"d1": "a cat"}, {"q1": "cats"}, {"q1": {"d1": 1}}).judged
    ('q1',)
    """

    name: str
    corpus: Mapping[str, str]
    queries: Mapping[str, str]
    relevance: Mapping[str, Mapping[str, int]]
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        asked = [query for query in self.relevance if query in self.queries]
        if self.relevance and not asked:
            raise UserError(
                f"set {self.name}: none of the {len(self.relevance)} judged queries is among the queries, as "
                f"'{next(iter(self.relevance))}': expected judgments of the same set"
            )
        relevant = [d for query in asked for d, grade in self.relevance[query].items() if grade > 0]
        if not relevant:
            raise UserError(f"set {self.name}: no query has a relevant document, expected at least one")
        if not any(document in self.corpus for document in relevant):
            raise UserError(
                f"set {self.name}: none of the {len(relevant)} relevant documents is in the corpus, as "
                f"'{relevant[0]}': expected judgments of the same set"
            )

    @property
    def judged(self) -> tuple[str, ...]:
        """The ids of the queries that are evaluated: those that are judged, as in trec_eval."""
        return tuple(query for query in self.queries if self.relevance.get(query))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the scores must know of the set, a line each."""
        queries = [query for query in self.relevance if query not in self.queries]
        documents = {d: None for q in self.judged for d in self.relevance[q] if d not in self.corpus}
        notes = list(self.remarks)
        if queries:
            notes.append(
                f"set {self.name}: {len(queries)} of {len(self.relevance)} judged queries are not among the "
                f"queries and are left out, as '{queries[0]}'"
            )
        if documents:
            notes.append(
                f"set {self.name}: {len(documents)} judged documents are not in the corpus and cannot be "
                f"found, as '{next(iter(documents))}'; they stay in the ideal ranking"
            )
        return tuple(notes)


def read_retrieval(
    path: str | os.PathLike[str], *, qrels: str | os.PathLike[str] | None = None, name: str | None = None
) -> RetrievalSet:
    """Read a retrieval set: a BEIR folder, or a file of SQuAD or of XSum.

    A file is told by what is in it: see `read_squad` and `read_xsum`.

    Parameters
    ----------
    path
        The folder or the file.
    qrels
        Other judgments of a BEIR folder: see `read_beir`.
    name
        The name of the set; that of the folder or file by default.

    Raises
    ------
    UserError
        One line that names file and line, if something is missing, empty or of another form.
    """
    file = Path(path)
    if file.is_file() and qrels is None:
        return (read_squad if _is_squad(file) else read_xsum)(file, name=name)
    return read_beir(path, qrels=qrels, name=name)


def read_beir(
    folder: str | os.PathLike[str], *, qrels: str | os.PathLike[str] | None = None, name: str | None = None
) -> RetrievalSet:
    """Read a retrieval set in BEIR form.

    The folder holds ``corpus.jsonl`` (``_id``, ``text``, maybe ``title``, put before the text),
    ``queries.jsonl`` (``_id``, ``text``) and the judgments, ``query-id corpus-id score``, tab-separated.
    Corpus and queries may be of any other form that `matryoshka2d.data.read_rows` takes, as
    ``corpus.parquet`` or a folder ``corpus``.

    Parameters
    ----------
    folder
        Where the files are.
    qrels
        The judgments; ``qrels.tsv`` or ``qrels/test.tsv`` of the folder by default, or the only others that
        it holds. To evaluate another split, name its file, or the split: ``dev`` is ``qrels/dev.tsv`` or
        ``qrels_dev.tsv`` of the folder.
    name
        The name of the set; that of the folder by default.

    Raises
    ------
    UserError
        One line that names file and line, if something is missing, empty or of another form.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(
            f"{root} is not a folder: expected one with corpus.jsonl, queries.jsonl and qrels.tsv, "
            f"or a file of SQuAD or XSum"
        )
    corpus = _texts(_part(root, "corpus"), may_be_empty=True)
    queries = _texts(_part(root, "queries"), may_be_empty=False)
    shown, file = name or root.resolve().name, _qrels_file(root, qrels)
    taken = file.relative_to(root).as_posix() if qrels is None else ""
    remarks = (
        (f"set {shown}: there are no test judgments, {taken} is taken",) if taken not in ("", *_QRELS) else ()
    )
    return RetrievalSet(shown, corpus, queries, _judgments(file), remarks)


def _qrels_file(root: Path, qrels: str | os.PathLike[str] | None) -> Path:
    if qrels is not None:
        return _named_qrels(root, qrels)
    candidates = [root / known for known in _QRELS]
    for file in candidates:
        if file.is_file():
            return file
    others = _other_qrels(root)
    if len(others) == 1:
        return others[0]
    if others:
        there = ", ".join(file.relative_to(root).as_posix() for file in others)
        raise UserError(
            f"no test judgments: expected {' or '.join(map(str, candidates))}; name one of "
            f"those that are there with --qrels: {there}"
        )
    raise UserError(f"no judgments: expected {' or '.join(map(str, candidates))}")


def _named_qrels(root: Path, qrels: str | os.PathLike[str]) -> Path:
    """Return the file of judgments that a path, a path in the folder or the name of a split means."""
    candidates = [Path(qrels), root / qrels, root / f"qrels/{qrels}.tsv", root / f"qrels_{qrels}.tsv"]
    for file in candidates:
        if file.is_file():
            return file
    there = ", ".join(file.relative_to(root).as_posix() for file in _other_qrels(root))
    raise UserError(
        f"no judgments called '{qrels}': expected a file, or a split of {root}"
        + (f"; there are {there}" if there else "")
    )


def _other_qrels(root: Path) -> list[Path]:
    return sorted(file for pattern in ("qrels*.tsv", "qrels/*.tsv") for file in root.glob(pattern))


def _part(root: Path, name: str) -> Path:
    """Return the file, or the folder of files, that holds the corpus or the queries."""
    found = [
        child
        for child in root.iterdir()
        if child.name.partition(".")[0] == name and (child.is_dir() or extension_of(child))
    ]
    if not found:
        raise UserError(
            f"{root / name}.jsonl does not exist: expected a BEIR folder with corpus.jsonl and queries.jsonl"
        )
    return min(found, key=lambda child: (child.suffix != ".jsonl", child.name))


def _texts(file: Path, *, may_be_empty: bool) -> dict[str, str]:
    texts: dict[str, str] = {}
    for place, given in _placed_rows(file):
        row = {name.casefold(): value for name, value in given.items()}
        key, text = row.get("_id", row.get("id")), row.get("text")
        if may_be_empty and "text" in row and text is None:
            text = ""
        if key is None or not isinstance(text, str):
            raise UserError(f'{place}: expected {{"_id": ..., "text": ...}}')
        key = str(key)
        if key in texts:
            raise UserError(f"{place}: the id '{key}' is there twice")
        texts[key] = with_title(row.get("title"), text)
        if not texts[key].strip() and not may_be_empty:
            raise UserError(f"{place}: the text of '{key}' is empty")
    return texts


def _placed_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every row of a file with where it stands."""
    for table in read_tables(file):
        yield from ((table.place(i), row) for i, row in enumerate(table.rows))


def _judgments(file: Path) -> dict[str, dict[str, int]]:
    relevance: dict[str, dict[str, int]] = {}
    started = False
    for line, content in numbered_lines(file):
        if not content.strip():
            continue
        fields = [field.strip() for field in content.strip().split("\t")]
        grade = _grade(fields[-1])
        is_header, started = not started and grade is None and not _is_number(fields[-1]), True
        if is_header:
            continue
        if len(fields) != 3 or grade is None:
            raise UserError(
                f"{file} line {line}: expected query-id, corpus-id and a whole number, tab-separated"
            )
        relevance.setdefault(fields[0], {})[fields[1]] = grade
    return relevance


def _grade(text: str) -> int | None:
    """Return a grade, which may be written as a decimal number, or None if it is not whole."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- SQuAD: a question finds the paragraph that answers it -----------------------------------------------


def read_squad(path: str | os.PathLike[str], *, name: str | None = None) -> RetrievalSet:
    """Read SQuAD as retrieval: each question finds the paragraph that it was asked about.

    Parameters
    ----------
    path
        The published JSON (``data`` → ``paragraphs`` → ``context`` and ``qas``), of version 1.1 or 2.0, or
        JSONL with ``id``, ``question`` and ``context`` a line, as hubs keep it. Questions that are marked
        impossible have no answer and are left out; a paragraph that comes twice is one document.
    name
        The name of the set; that of the file by default.

    Raises
    ------
    UserError
        If the file is missing or of another form.
    """
    file = Path(path)
    return _paired(file, _squad_rows(file), _SQUAD, name)


def _is_squad(file: Path) -> bool:
    """Return whether a file holds SQuAD in either of its forms."""
    return _is_nested(file) or "question" in next(_placed_rows(file))[1]


def _is_nested(file: Path) -> bool:
    """Return whether a file is of the published form: one object, not one a line."""
    first = next((line for _, line in numbered_lines(file) if line.strip()), "")
    return without_compression(file).lower().endswith(".json") and first.lstrip().startswith("{")


def _squad_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (where it stands, question with its context) for every question that has an answer."""
    if not _is_nested(file):
        yield from _placed_rows(file)
        return
    try:
        for article in json.loads("".join(line for _, line in numbered_lines(file)))["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    if not question.get("is_impossible", False):
                        where = f"{file} question {question.get('id', '')}"
                        yield where, {**question, "context": paragraph["context"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file} is not SQuAD: expected data, paragraphs, context and qas "
            f"({type(error).__name__}: {error})"
        ) from error


# --- XSum: a summary finds its article -------------------------------------------------------------------


def read_xsum(path: str | os.PathLike[str], *, name: str | None = None) -> RetrievalSet:
    """Read XSum as retrieval: each one-sentence summary finds its article.

    Parameters
    ----------
    path
        JSONL with ``document`` and ``summary``, and maybe ``id``, a line. An article that comes twice is one
        document. Articles are long: evaluate with a model that reads enough tokens.
    name
        The name of the set; that of the file by default.

    Raises
    ------
    UserError
        If the file is missing or of another form.
    """
    file = Path(path)
    numbered = enumerate(_placed_rows(file), start=1)
    return _paired(file, ((place, {"id": i, **row}) for i, (place, row) in numbered), _XSUM, name)


# --- what both are: rows of a query and its one document -------------------------------------------------


@dataclass(frozen=True)
class _Pairs:
    """Where a row keeps its query and its document, what documents are called, and what was expected."""

    query: str
    document: str
    prefix: str
    texts: str
    empty: str


_SQUAD = _Pairs(
    "question",
    "context",
    prefix="p",
    texts="question and context",
    empty='has no question: expected SQuAD, as {"data": [...]} or one question a line',
)
_XSUM = _Pairs(
    "summary",
    "document",
    prefix="a",
    texts="document and summary",
    empty="is empty: expected one JSON object a line with document and summary",
)


def _paired(
    file: Path, rows: Iterable[tuple[str, Mapping[str, Any]]], form: _Pairs, name: str | None
) -> RetrievalSet:
    """Return the set of some rows; equal documents are one."""
    corpus: dict[str, str] = {}
    queries: dict[str, str] = {}
    relevance: dict[str, dict[str, int]] = {}
    documents: dict[str, str] = {}
    for where, row in rows:
        both = (row.get(form.query), row.get(form.document))
        query, document = (text if isinstance(text, str) else "" for text in both)
        if not query.strip() or not document.strip():
            raise UserError(f"{where}: expected the texts {form.texts}")
        key = str(row.get("id", f"q{len(queries)}"))
        if key in queries:
            raise UserError(f"{where}: the id '{key}' is there twice")
        found = documents.setdefault(document, f"{form.prefix}{len(documents)}")
        corpus[found], queries[key], relevance[key] = document, query, {found: 1}
    if not queries:
        raise UserError(f"{file} {form.empty}")
    return RetrievalSet(name or file.stem, corpus, queries, relevance)
