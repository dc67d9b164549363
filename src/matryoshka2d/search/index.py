"""An index with the model that embeds its queries: `open_index`, and what it finds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matryoshka2d.errors import UserError
from matryoshka2d.search.documents import Document
from matryoshka2d.search.fingerprint import check_model, check_one_space
from matryoshka2d.search.meta import Meta, Vectors
from matryoshka2d.search.store import Found, Funnel, Store, Where
from matryoshka2d.search.stores import open_store
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.inference import Engine

    Model = str | Path | ElasticEncoder | Engine

_BLOCK = 512


@dataclass(frozen=True)
class Hit:
    """One document that was found.

    Parameters
    ----------
    id, text, fields
        The document.
    score
        The cosine of the whole vectors of query and document.
    first_score
        What the first stage found it with; None after an exact search.
    """

    id: str
    score: float
    first_score: float | None
    text: str
    fields: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "id": self.id,
            "score": self.score,
            "first_score": self.first_score,
            "text": self.text,
            "fields": self.fields,
        }


@dataclass(frozen=True)
class Answer:
    """What one query found.

    Parameters
    ----------
    hits
        Best first.
    milliseconds
        Stage → how long it took, for all queries of the call together: ``embed``, then ``prefix`` and
        ``rescore`` or ``exact``, then ``documents``.
    approximate
        Whether the query was embedded with fewer layers than the documents.
    """

    hits: list[Hit]
    milliseconds: dict[str, float] = field(default_factory=dict)
    approximate: bool = False


class Index:
    """An index, and the model that made it, loaded when the first text is searched for.

    Parameters
    ----------
    store
        Where the vectors are.
    model
        What embeds queries; the model whose name the index keeps, if None.
    device
        Where it runs.
    """

    def __init__(self, store: Store, model: Model | None = None, device: str | None = None) -> None:
        self.store = store
        self.device = device
        self._model = model
        self._engine: Engine | None = None
        self._checked: set[int] = set()

    @property
    def meta(self) -> Meta:
        """What the index knows about itself."""
        return self.store.meta

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.store)

    def __enter__(self) -> Index:
        """Return the index; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the index."""
        self.close()

    def close(self) -> None:
        """Let go of files and connections."""
        self.store.close()

    # --- searching ------------------------------------------------------------------------------------

    def search(
        self,
        queries: str | Sequence[str] | Vectors,
        k: int = 10,
        *,
        oversample: int | None = None,
        effort: int | None = None,
        prefix: int | None = None,
        query_size: str | Size | None = None,
        exact: bool = False,
        where: Where | None = None,
    ) -> list[Answer]:
        """Find the nearest documents: first by the prefix, then by whole vectors.

        Parameters
        ----------
        queries
            A text, several texts, or vectors, float [queries, dims].
        k
            How many documents to find for each.
        oversample
            How many candidates the prefix finds for each result. Default: what `tune` chose, or 10. More are
            surer and slower.
        effort
            How far the graph of the first stage is searched, at least the number of candidates. Default: what
            `tune` chose.
        prefix
            Compare another prefix than that of the index, without its graph, to see what `recut` would bring.
        query_size
            Embed queries with fewer layers than documents, as ``"1x384"``: faster and approximate. Only where
            the model's exits lie in one space. Default: what `tune` chose, or the size of the index.
        exact
            Compare whole vectors with every document instead.
        where
            Field → the value that it must have, or a list of which it must have one.

        Returns
        -------
        list of Answer
            One a query, in their order.

        Raises
        ------
        UserError
            If the model is not that of the index, or an argument does not fit it.
        """
        layers = self.query_layers(query_size)
        _check_count("k", k)
        funnel = self.funnel(k, oversample=oversample, effort=effort, prefix=prefix, where=where)
        if not isinstance(queries, np.ndarray):
            # Loading the model is no part of the search.
            self.check_queries(layers)
        start = time.perf_counter()
        vectors = self._vectors(queries, layers)
        embedded = 1e3 * (time.perf_counter() - start)
        parts = [
            self.found(vectors[first : first + _BLOCK], funnel, exact=exact)
            for first in range(0, len(vectors), _BLOCK)
        ]
        start = time.perf_counter()
        known = self.store.documents(sorted({key for part in parts for row in part.ids for key in row}))
        times = {"embed": embedded}
        for part in parts:
            for stage, taken in part.milliseconds.items():
                times[stage] = times.get(stage, 0.0) + taken
        times["documents"] = 1e3 * (time.perf_counter() - start)
        approximate = layers < self.meta.size.layers
        return [Answer(hits, times, approximate) for part in parts for hits in _hits(part, known)]

    def funnel(
        self,
        k: int,
        *,
        oversample: int | None = None,
        effort: int | None = None,
        prefix: int | None = None,
        where: Where | None = None,
    ) -> Funnel:
        """Return how a search goes: what is named, and the choice of the index for the rest."""
        choice = self.meta.choice
        oversample = choice.oversample if oversample is None else oversample
        effort = choice.effort if effort is None else effort
        prefix = self.meta.prefix if prefix is None else prefix
        _check_count("oversample", oversample)
        if not 1 <= prefix <= self.meta.size.dims:
            raise UserError(f"prefix {prefix} does not fit this index: use 1 to {self.meta.size.dims} dims")
        if prefix != self.meta.prefix and not self.store.any_prefix:
            raise UserError(
                f"{self.store.scheme} indexes keep the prefix as a vector of {self.meta.prefix} dims: recut "
                f"the index to search with {prefix}"
            )
        candidates = k * oversample
        return Funnel(k, candidates, max(effort, candidates), prefix, where)

    def found(self, vectors: Vectors, funnel: Funnel, *, exact: bool = False) -> Found:
        """Search with vectors, float32 [queries, dims], and return ids and scores alone."""
        if not exact:
            return self.store.search(vectors, funnel)
        start = time.perf_counter()
        ids, scores = self.store.exact(vectors, funnel.k, funnel.where)
        return Found(ids, scores, [], {"exact": 1e3 * (time.perf_counter() - start)})

    def embed(self, texts: Sequence[str], layers: int | None = None) -> Vectors:
        """Return the vectors of queries, float32 [texts, dims], after the layers of the index or fewer."""
        layers = layers or self.meta.size.layers
        size = Size(layers, self.meta.size.dims)
        return self.engine_for(layers).embed(texts, size, prompt=self.meta.query_prompt)

    def _vectors(self, queries: str | Sequence[str] | Vectors, layers: int) -> Vectors:
        if isinstance(queries, np.ndarray):
            vectors = np.atleast_2d(queries).astype(np.float32)
            if vectors.shape[1] != self.meta.size.dims:
                raise UserError(
                    f"queries of {vectors.shape[1]} dims cannot meet documents of {self.meta.size.dims}: "
                    f"embed them at size {self.meta.size}"
                )
            if not np.isfinite(vectors).all():
                raise UserError("the queries hold NaN or infinity: embed them again")
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            unit: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
            return unit
        texts = [queries] if isinstance(queries, str) else list(queries)
        return self.embed(texts, layers)

    def query_layers(self, query_size: str | Size | None = None) -> int:
        """Return how many layers embed queries of a size, or raise a `UserError` if it does not fit."""
        size = self.meta.size
        if query_size is None:
            return self.meta.choice.query_layers or size.layers
        wanted = Size.parse(query_size)
        if wanted.dims != size.dims:
            raise UserError(
                f"queries of size {wanted} cannot meet documents of size {size}: both need the same dims, as "
                f"in {wanted.layers}x{size.dims}"
            )
        if wanted.layers > size.layers:
            raise UserError(
                f"queries of size {wanted} are deeper than the documents ({size}): use at most {size.layers} "
                "layers"
            )
        return wanted.layers

    def check_queries(self, layers: int) -> None:
        """Raise a `UserError` unless queries of so many layers may meet the documents."""
        self.engine_for(layers)
        if layers < self.meta.size.layers:
            check_one_space(self.meta, layers)

    def engine_for(self, layers: int) -> Engine:
        """Return the engine, once it was seen to be that of the index at so many layers."""
        engine = self._engine
        if engine is None or engine.depth < layers:
            engine = self._engine = self._opened(layers)
        if layers not in self._checked:
            check_model(engine, self.meta, layers)
            self._checked.add(layers)
        return engine

    def _opened(self, layers: int) -> Engine:
        from matryoshka2d.inference import Engine, open_engine

        model = self._model if self._model is not None else self.meta.model
        if isinstance(model, Engine):
            return model
        if not model:
            raise UserError("the index does not name its model: open it with one to search for texts")
        named = isinstance(model, (str, Path))
        size = Size(layers, self.meta.size.dims) if named else None
        own = self._model is None
        # Not every machine has int16; what it takes instead agrees, as the probes are asked.
        recorded = "auto" if self.meta.precision == "int16" else self.meta.precision
        return open_engine(
            model,
            self.meta.engine if own else "auto",
            recorded if own else "auto",
            self.device,
            size=size,
        )

    # --- changing -------------------------------------------------------------------------------------

    def add(self, documents: Sequence[Document], vectors: Vectors | None = None) -> None:
        """Add documents, embedded here unless their vectors are given; those of a known id are replaced.

        Parameters
        ----------
        documents
            What to add.
        vectors
            float [documents, dims] of the size of the index; any length but 0.
        """
        if len({one.id for one in documents}) < len(documents):
            raise UserError("an id comes twice among the documents to add: ids must be unique")
        if vectors is None:
            size = self.meta.size
            vectors = self.engine_for(size.layers).embed(
                [one.text for one in documents], size, prompt=self.meta.document_prompt
            )
        unit = np.asarray(vectors, dtype=np.float32)
        unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), np.float32(1e-30))
        with self.store.writing():
            self.store.add(documents, unit)
            self.store.finish()

    def delete(self, ids: Sequence[str]) -> int:
        """Remove documents, and return how many of them were there."""
        with self.store.writing():
            return self.store.delete(list(ids))

    def bytes(self) -> dict[str, int]:
        """Return part → bytes on disk."""
        return self.store.bytes()


def open_index(uri: str, model: Model | None = None, *, device: str | None = None) -> Index:
    """Open an index to search it.

    Parameters
    ----------
    uri
        ``faiss:FOLDER``, ``postgresql://…?table=NAME``, ``qdrant:FOLDER`` or ``qdrant:http://HOST:6333/NAME``.
    model
        The model that made it: a name, an `ElasticEncoder` or an `Engine`. By default the one whose name the
        index keeps, loaded when the first text is searched for. Searching with vectors needs none.
    device
        Where the model runs; by default the best there is.

    Raises
    ------
    UserError
        If there is no index, or the model that is given does not give the vectors that it was made of.
    """
    index = Index(open_store(uri), model, device)
    if model is not None:
        index.engine_for(index.meta.size.layers)
    return index


def _hits(part: Found, known: dict[str, Document]) -> list[list[Hit]]:
    first: Sequence[Any] = part.first_scores or [[None] * len(row) for row in part.ids]
    return [
        [
            Hit(key, float(score), None if own is None else float(own), known[key].text, known[key].fields)
            for key, score, own in zip(ids, scores, firsts, strict=True)
            # A document may go between the search and this.
            if key in known
        ]
        for ids, scores, firsts in zip(part.ids, part.scores, first, strict=True)
    ]


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name} is {value}: expected at least 1")
