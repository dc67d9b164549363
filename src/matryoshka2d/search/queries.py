"""Queries out of a file of texts or a BEIR folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matryoshka2d.search.documents import documents

Qrels = Mapping[str, Mapping[str, int]]


def read_queries(path: str | Path, limit: int | None = None) -> tuple[dict[str, str], Qrels | None]:
    """Return id → text, and the judgments where there are some.

    Parameters
    ----------
    path
        A file of texts, as for `documents`, or a BEIR folder, of which the judged queries are taken.
    limit
        Take at most so many, evenly spread.

    Raises
    ------
    UserError
        If the file or the folder is not usable.
    """
    from matryoshka2d.evaluation.retrieval_sets import read_beir

    qrels: Qrels | None = None
    if Path(path).is_dir():
        found = read_beir(path)
        texts = {name: found.queries[name] for name in found.judged}
        qrels = found.relevance
    else:
        texts = {one.id: one.text for one in documents(path).documents()}
    if limit is not None and len(texts) > limit:
        names = list(texts)
        texts = {names[i * len(names) // limit]: texts[names[i * len(names) // limit]] for i in range(limit)}
    return texts, qrels
