"""Retrieval over the grid: nDCG at k of retrieval sets, from one pass over queries and one over documents.

The measure is that of trec_eval and MTEB: linear gain, discount log2(rank + 1), ideal over all judged
documents, mean over the judged queries. A query whose judged documents are all of grade 0 counts 0, a judged
document that the corpus lacks stays in the ideal, and of documents that are equally similar the one with the
greater id is ranked first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.cosine import Floats, Indices, Vectors, top_k
from matryoshka2d.evaluation.exits import (
    Exits,
    as_exits,
    check_cut,
    dims_by_layer,
    side_exits,
    side_prompt_of,
    sizes_of,
    turn,
)
from matryoshka2d.evaluation.grid import Grid
from matryoshka2d.evaluation.index_precision import Keeper
from matryoshka2d.evaluation.own_documents import exclusion_note, own_documents
from matryoshka2d.evaluation.retrieval_sets import RetrievalSet
from matryoshka2d.evaluation.similarity import Similarity, similarity_details, similarity_of
from matryoshka2d.size import Size, parse_sizes


def ndcg(ranked_grades: Sequence[int], judged_grades: Iterable[int], k: int = 10) -> float:
    """Return the nDCG at k of one ranking: linear gain, discount log2(rank + 1).

    Parameters
    ----------
    ranked_grades
        Grades of the documents found, best first.
    judged_grades
        Grades of all judged documents of the query, in any order: they make the ideal ranking.
    k
        How many places count.

    References
    ----------
    Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 20(4), 2002, in the
    form of trec_eval's ``ndcg_cut``.

    Examples
    --------
    >>> ndcg([0, 1], [1])
    0.6309297535714575
    """
    ideal = _gain(sorted(judged_grades, reverse=True)[:k])
    return _gain(ranked_grades[:k]) / ideal if ideal > 0 else 0.0


def _gain(grades: Sequence[int]) -> float:
    return float(sum(max(grade, 0) / np.log2(rank + 2) for rank, grade in enumerate(grades)))


@dataclass
class _Best:
    """The k best documents of every query at every width of one of its exits, over the documents seen."""

    dims: list[int]
    k: int
    similarity: Similarity
    keepers: list[Keeper] = field(default_factory=list)
    scores: list[Floats] = field(default_factory=list)
    documents: list[Indices] = field(default_factory=list)
    seen: list[Floats] = field(default_factory=list)
    varies: list[bool] = field(default_factory=list)

    def start(self, queries: int, corpus: Vectors, precision: str) -> None:
        """Begin with no documents; the first of the corpus fix the ranges of codes."""
        self.scores = [np.empty((queries, 0)) for _ in self.dims]
        self.documents = [np.empty((queries, 0), dtype=np.int64) for _ in self.dims]
        self.seen = [np.full((queries, 1), np.nan) for _ in self.dims]
        self.varies = [False] * len(self.dims)
        if precision != "float32":
            unit = self.similarity.unit
            self.keepers = [Keeper.fit(corpus, d, precision, unit=unit) for d in self.dims]

    def add(self, queries: Vectors, documents: Vectors, first: int, barred: Indices) -> None:
        """Take in documents numbered from `first`; `barred` [queries] is a document never to be found."""
        found: list[list[tuple[Floats, Indices]]] = [[] for _ in self.dims]
        for rows, position, similar in self._blocks(queries, documents):
            if not self.varies[position]:
                if first == 0:
                    self.seen[position][rows] = similar[:, :1]
                self.varies[position] = bool((similar != self.seen[position][rows]).any())
            own = barred[rows] - first
            inside = np.flatnonzero((own >= 0) & (own < len(documents)))
            similar[inside, own[inside]] = -np.inf
            columns = top_k(similar, self.k)
            found[position].append((np.take_along_axis(similar, columns, axis=1), columns + first))
        for position, blocks in enumerate(found):
            self._merge(position, *(np.concatenate(part) for part in zip(*blocks, strict=True)))

    def _blocks(self, queries: Vectors, documents: Vectors) -> Iterator[tuple[slice, int, Floats]]:
        """Yield rows, position and similarities, as in `block_cosines`, of what the index keeps."""
        if not self.keepers:
            yield from self.similarity.of_blocks(queries, documents, self.dims)
        for position, keeper in enumerate(self.keepers):
            sides = keeper.asked(queries), keeper.kept(documents)
            for rows, _, similar in self.similarity.of_blocks(*sides, [keeper.dims]):
                yield rows, position, similar

    def _merge(self, position: int, scores: Any, documents: Any) -> None:
        # What was there before stands first, so that the earlier document of a tie stays ahead.
        scores = np.concatenate([self.scores[position], scores], axis=1)
        documents = np.concatenate([self.documents[position], documents], axis=1)
        columns = top_k(scores, self.k)
        self.scores[position] = np.take_along_axis(scores, columns, axis=1)
        self.documents[position] = np.take_along_axis(documents, columns, axis=1)


def retrieval_scores(
    model: Any,
    data: RetrievalSet,
    *,
    sizes: Sizes = None,
    query_sizes: Sizes = None,
    document_size: str | Size | None = None,
    cuts: Sequence[str] = ("prefix",),
    k: int = 10,
    seed: int = 0,
    fit_texts: Sequence[str] = (),
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    exclude_self: bool | None = None,
    precision: str = "float32",
    chunk_size: int = 16_384,
    batch_size: int = 64,
    show_progress_bar: bool = False,
) -> dict[str, dict[Size, Floats]]:
    """Return the nDCG at k of every judged query at every size, for statistics over queries.

    Queries are encoded once, documents once, chunk by chunk; only the best k of each query are kept, so
    memory does not grow with the corpus. Vectors are compared by the model's own similarity. Of documents
    that are equally similar the one whose id is the greater text is ranked first, as in trec_eval.

    Parameters
    ----------
    model
        An `ElasticEncoder`; or a plain SentenceTransformer, which has its full depth only.
    data
        What `read_retrieval` gives.
    sizes
        Of queries and documents alike, as ``"1-6x8,16,32"``; by default those that the model shows.
    query_sizes, document_size
        Instead of `sizes`, where the two sides differ: queries of several sizes, as ``"1-6x128"``, over an
        index of one, as ``"6x128"``, of the same dims. Documents are at full depth, and queries at every
        depth, unless you say otherwise.
    cuts
        One or more of ``"prefix"``, ``"pca"``, ``"random"``, all from the same pass.
    k
        How many places count.
    seed
        Chooses the coordinates of the random cut.
    fit_texts
        Texts on which a PCA cut is fitted, at the documents' exit for both sides; the first chunk of the
        corpus by default.
    query_prompt_name, query_prompt, corpus_prompt_name, corpus_prompt
        Prompts of the two sides, by name or as text. By default those that ``encode_query`` and
        ``encode_document`` of a SentenceTransformer put before texts.
    exclude_self
        Whether the document with the id of a query is never counted as found, as BEIR has it where queries
        are themselves documents (ArguAna, Quora). By default it is left out for queries whose text that
        document holds: see `own_documents`.
    precision
        How an index keeps the documents: ``"float32"``, ``"int8"`` or ``"binary"``. The ranges of int8 are
        learnt from the first `chunk_size` documents; queries stay float32, and are bits where documents are.
    chunk_size
        Documents encoded and scored together. Lower it when memory is short: one chunk takes
        4 x chunk_size x width x layers bytes.
    batch_size, show_progress_bar
        As in ``SentenceTransformer.encode``.

    Returns
    -------
    dict
        Cut → size of the queries → float64 [judged queries], between 0 and 1, in the order of
        ``data.judged``; nan where all documents look alike to every query.

    Raises
    ------
    UserError
        If the model lacks a size, the two sides differ in dims, or a cut is not known.
    """
    found = scores_by_precision(
        model,
        data,
        precisions=(precision,),
        sizes=sizes,
        query_sizes=query_sizes,
        document_size=document_size,
        cuts=cuts,
        k=k,
        seed=seed,
        fit_texts=fit_texts,
        query_prompt_name=query_prompt_name,
        query_prompt=query_prompt,
        corpus_prompt_name=corpus_prompt_name,
        corpus_prompt=corpus_prompt,
        exclude_self=exclude_self,
        chunk_size=chunk_size,
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
    )
    return found[precision]


def scores_by_precision(
    model: Any,
    data: RetrievalSet,
    *,
    precisions: Sequence[str],
    sizes: Sizes = None,
    query_sizes: Sizes = None,
    document_size: str | Size | None = None,
    cuts: Sequence[str] = ("prefix",),
    k: int = 10,
    seed: int = 0,
    fit_texts: Sequence[str] = (),
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    exclude_self: bool | None = None,
    chunk_size: int = 16_384,
    batch_size: int = 64,
    show_progress_bar: bool = False,
) -> dict[str, dict[str, dict[Size, Floats]]]:
    """Return precision of the index → what `retrieval_scores` gives, all from the same pass.

    Parameters
    ----------
    precisions
        One or more of ``"float32"``, ``"int8"`` and ``"binary"``.

    The others are those of `retrieval_scores`.
    """
    known_cuts = [check_cut(cut) for cut in cuts]
    encoder = as_exits(model)
    pairs = size_pairs(encoder, sizes, query_sizes, document_size)
    table = dims_by_layer(pairs)
    opposite = {query.layers: document.layers for query, document in pairs.items()}
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
    corpus_options = {
        **options,
        "layers": sorted(set(opposite.values())),
        "prompt_name": corpus_prompt_name,
        "prompt": corpus_prompt,
    }
    queries = side_exits(
        encoder,
        [data.queries[query] for query in data.judged],
        "query",
        layers=list(table),
        prompt_name=query_prompt_name,
        prompt=query_prompt,
        **options,
    )
    best = {
        (precision, cut, n): _Best(dims, k, similarity_of(encoder))
        for precision in precisions
        for cut in known_cuts
        for n, dims in table.items()
    }
    # trec_eval ranks the later id first where documents tie, so documents are taken in that order.
    documents = sorted(data.corpus, reverse=True)
    numbers = {key: number for number, key in enumerate(documents)}
    own = own_documents(data, exclude_self)
    barred = np.array([numbers[query] if query in own else -1 for query in data.judged])
    fit = side_exits(encoder, fit_texts, "document", **corpus_options) if fit_texts and "pca" in cuts else {}
    for first in range(0, len(documents), chunk_size):
        texts = [data.corpus[key] for key in documents[first : first + chunk_size]]
        chunk = side_exits(encoder, texts, "document", **corpus_options)
        fit = fit or (chunk if "pca" in cuts else {})
        for (precision, cut, n), kept in best.items():
            sides = queries[n], chunk[opposite[n]]
            # A turn keeps the angles between the two sides only if it is the same for both.
            rotated = [turn(side, cut, fit=fit.get(opposite[n]), seed=seed) for side in sides]
            if first == 0:
                kept.start(len(data.judged), rotated[1], precision)
            kept.add(rotated[0], rotated[1], first, barred)
    scores: dict[str, dict[str, dict[Size, Floats]]] = {p: {cut: {} for cut in cuts} for p in precisions}
    for (precision, cut, n), kept in best.items():
        for dims, found, varies in zip(kept.dims, kept.documents, kept.varies, strict=True):
            defined = varies or len(documents) == 1
            scores[precision][cut][Size(n, dims)] = (
                _scores_of(data, documents, found, barred, k) if defined else np.full(len(found), np.nan)
            )
    return scores


def _scores_of(
    data: RetrievalSet, documents: Sequence[str], found: Indices, barred: Indices, k: int
) -> Floats:
    scores = np.empty(len(found))
    for row, query in enumerate(data.judged):
        grades = data.relevance[query]
        # A barred document is still among the k found where the corpus holds no others.
        ranked = [grades.get(documents[i], 0) for i in found[row] if i != barred[row]]
        scores[row] = ndcg(ranked, grades.values(), k)
    return scores


def retrieval_grids(
    model: Any,
    sets: Sequence[RetrievalSet],
    *,
    sizes: Sizes = None,
    query_sizes: Sizes = None,
    document_size: str | Size | None = None,
    cuts: Sequence[str] = ("prefix",),
    k: int = 10,
    name: str = "",
    **options: Any,
) -> dict[str, Grid]:
    """Evaluate a model on retrieval sets at every size; one grid per cut, all from the same pass.

    Parameters
    ----------
    model, sizes, query_sizes, document_size, cuts, k
        As in `retrieval_scores`.
    sets
        What `read_retrieval` gives, one or more.
    name
        Kept in the grids.
    **options
        The other arguments of `retrieval_scores`: ``seed``, prompts, ``batch_size`` …

    Returns
    -------
    dict
        Cut → `Grid` with metric ``ndcg@k``, times 100. Where the two sides differ its sizes are those of the
        queries, and ``details["document_sizes"]`` names those of the documents.
    """
    encoder = as_exits(model)
    pairs = size_pairs(encoder, sizes, query_sizes, document_size)
    counts = {one.name: {"queries": len(one.judged), "documents": len(one.corpus)} for one in sets}
    asked: dict[str, Any] = {"sizes": list(pairs)}
    details: dict[str, Any] = {"counts": counts, **retrieval_details(encoder, sets, **options)}
    if query_sizes is not None or document_size is not None:
        asked = {"query_sizes": list(pairs), "document_size": document_size}
        details["document_sizes"] = [str(size) for size in sorted(set(pairs.values()))]
    scores = {one.name: retrieval_scores(encoder, one, **asked, cuts=cuts, k=k, **options) for one in sets}
    grids = {}
    for cut in cuts:
        columns = {
            one: tuple(float(100 * values.mean()) for values in by_cut[cut].values())
            for one, by_cut in scores.items()
        }
        used = tuple(next(iter(scores.values()))[cut])
        grids[cut] = Grid(used, columns, f"ndcg@{k}", cut, name, details).noted()
    return grids


def retrieval_details(
    model: Any,
    sets: Sequence[RetrievalSet],
    *,
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    exclude_self: bool | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Return what a reader of retrieval scores must know: ``prompts``, ``similarity``, ``notes``, where "
    "there are.

    Arguments as in `retrieval_scores`.
    """
    encoder = as_exits(model)
    prompts = {
        "query": side_prompt_of(encoder, "query", prompt_name=query_prompt_name, prompt=query_prompt),
        "document": side_prompt_of(encoder, "document", prompt_name=corpus_prompt_name, prompt=corpus_prompt),
    }
    notes = [note for one in sets for note in (*one.notes, exclusion_note(one, exclude_self)) if note]
    return {
        **({"prompts": prompts} if any(prompts.values()) else {}),
        **similarity_details(encoder, notes),
    }


def retrieval_grid(model: Any, sets: Sequence[RetrievalSet], *, cut: str = "prefix", **options: Any) -> Grid:
    """Evaluate a model on retrieval sets at every size, with one cut: see `retrieval_grids`.

    Examples
    --------
    >>> from matryoshka2d.encoder.default_model import default_model_path
    >>> from matryoshka2d.encoder.elastic import ElasticEncoder
    >>> encoder = ElasticEncoder(default_model_path(), device="cpu")
    >>> data = RetrievalSet("toy", {"a": "a cat", "b": "the sea"}, {"q": "kittens"}, {"q": {"a": 1}})
    >>> retrieval_grid(encoder, [data], sizes="1,6x384").mean("6x384")
    100.0
    """
    return retrieval_grids(model, sets, cuts=[cut], **options)[cut]


Sizes = str | Iterable[str | Size] | None


def check_sides(
    sizes: Sizes = None, query_sizes: Sizes = None, document_size: str | Size | None = None
) -> None:
    """Raise a `UserError` for what cannot be meant, whatever the model: see `size_pairs`."""
    queries = parse_sizes(query_sizes) if query_sizes is not None else ()
    document = Size.parse(document_size) if document_size is not None else None
    _check(sizes is not None, queries, document)


def _check(alike: bool, queries: tuple[Size, ...], document: Size | None) -> None:
    if alike and (queries or document):
        raise UserError(
            "sizes are those of queries and documents alike: leave them out where the two sides differ, or "
            "leave out the query and document sizes"
        )
    for query in queries:
        if document is not None and query.dims != document.dims:
            raise UserError(
                f"queries of size {query} cannot meet documents of size {document}: both need the same dims, "
                f"take queries of {document.dims} dims, as in {query.layers}x{document.dims}"
            )


def size_pairs(
    model: Exits, sizes: Sizes = None, query_sizes: Sizes = None, document_size: str | Size | None = None
) -> dict[Size, Size]:
    """Return size of the queries → size of the documents that they meet, ascending.

    Parameters
    ----------
    model
        The model.
    sizes
        Sizes of both sides at once, as in `sizes_of`: what counts where neither of the others is given.
    query_sizes
        Sizes of the queries alone; by default every depth that the model shows, at the documents' dims.
    document_size
        The one size of the documents; by default full depth, at the dims of each query.

    Raises
    ------
    UserError
        If the model lacks a size, two sides differ in dims, or `sizes` is given beside either of the others.

    Examples
    --------
    >>> from matryoshka2d.encoder.default_model import default_model_path
    >>> from matryoshka2d.encoder.elastic import ElasticEncoder
    >>> encoder = ElasticEncoder(default_model_path(), device="cpu")
    >>> pairs = size_pairs(encoder, query_sizes="1-2x128", document_size="6x128")
    >>> {str(query): str(document) for query, document in pairs.items()}
    {'1x128': '6x128', '2x128': '6x128'}
    """
    queries = sizes_of(model, query_sizes) if query_sizes is not None else ()
    document = None
    if document_size is not None:
        document = Size.parse(document_size).check(model.depth, model.width)
    _check(sizes is not None, queries, document)
    if not queries and document is None:
        return {size: size for size in sizes_of(model, sizes)}
    if document is not None and not queries:
        queries = tuple(sorted({Size(size.layers, document.dims) for size in sizes_of(model)}))
    return {query: document or Size(model.depth, query.dims) for query in queries}
