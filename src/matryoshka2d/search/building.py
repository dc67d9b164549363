"""Documents → an index: in blocks, going on where a kill stopped, embedding only what is new or changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.errors import UserError
from matryoshka2d.prompts import side_prompt
from matryoshka2d.search.documents import Corpus, Document, blocks, documents
from matryoshka2d.search.fingerprint import check_model, fingerprint
from matryoshka2d.search.meta import Meta, default_prefix
from matryoshka2d.search.store import Store
from matryoshka2d.search.stores import make_store, open_store
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.inference import Engine

BLOCK = 2048
"""Documents that are embedded and written together: what a kill costs at most."""


@dataclass(frozen=True)
class Built:
    """What a run left behind.

    Parameters
    ----------
    documents
        How many the index holds now.
    added
        How many were embedded: new ones and changed ones.
    found
        How many of the file were there already.
    bytes
        Part → bytes on disk.
    """

    documents: int
    added: int
    found: int
    bytes: dict[str, int]


def index_documents(
    engine: Engine,
    source: str | Path | Corpus,
    to: str,
    *,
    model: str = "",
    size: str | Size | None = None,
    prefix: int | None = None,
    codes: str = "float",
    graph: bool = True,
    column: str | None = None,
    document_prompt: str | None = None,
    query_prompt: str | None = None,
    show_progress_bar: bool = False,
) -> Built:
    """Embed documents into an index; call it again after a kill, or with more documents, and it goes on.

    A document whose id is in the index is skipped if nothing changed, and replaced if it did.

    Parameters
    ----------
    engine
        The engine.
    source
        A file of documents or a BEIR folder: see `documents`.
    to
        The address of the index: see `open_index`.
    model
        The name by which the index can load the model again.
    size
        Layers and dims of the vectors. Default: that of the engine.
    prefix
        How many leading dims the first stage compares. Default: a third of the dims, at least 32; `tune`
        finds a better one.
    codes
        How it keeps them: ``"float"``, ``"half"``, ``"int8"`` or ``"bit"``. Fewer bytes, a little less recall
        at the same oversampling.
    graph
        Whether the first stage searches a graph. Without, it compares every prefix: exact and slower.
    column
        The column of texts, if it is not recognised.
    document_prompt, query_prompt
        What is put before documents and queries. Default: the model's own prompts of those names.
    show_progress_bar
        Whether to draw progress.

    Raises
    ------
    UserError
        If a document, an option or the model does not fit, or another index is there; what is there stays.
    """
    corpus = source if isinstance(source, Corpus) else documents(source, column)
    wanted = (engine.size if size is None else Size.parse(size)).check(engine.depth, engine.width)
    own = getattr(engine, "tokenizer", None)
    prompt = side_prompt(own, "document") if document_prompt is None else document_prompt
    meta = Meta(
        model=model,
        size=wanted,
        prefix=default_prefix(wanted.dims) if prefix is None else prefix,
        codes=codes,
        graph=graph,
        engine=engine.name,
        precision=engine.precision,
        document_prompt=prompt,
        query_prompt=side_prompt(own, "query") if query_prompt is None else query_prompt,
        probes=fingerprint(engine, wanted, prompt),
    )
    store = make_store(to, meta)
    try:
        check_model(engine, store.meta, wanted.layers)
        with store.writing():
            added = _add_all(store, engine, corpus, show_progress_bar)
        return Built(len(store), added, corpus.count - added, store.bytes())
    finally:
        store.close()


def _add_all(store: Store, engine: Engine, corpus: Corpus, show: bool) -> int:
    """Embed and add what the store does not have yet, and return how many that were."""
    from tqdm.auto import tqdm

    added, size, prompt = 0, store.meta.size, store.meta.document_prompt
    with tqdm(total=corpus.count, desc="Indexing", unit=" documents", disable=not show) as bar:
        for block in blocks(corpus.documents(), BLOCK):
            known = store.digests([one.id for one in block])
            new = [one for one in block if known.get(one.id) != one.digest]
            _check_numbered(corpus, new, known)
            if new:
                store.add(new, engine.embed([one.text for one in new], size, prompt=prompt))
            added += len(new)
            bar.update(len(block))
    store.finish()
    return added


def _check_numbered(corpus: Corpus, new: Sequence[Document], known: dict[str, Any]) -> None:
    """Refuse to replace documents that merely have the same row number."""
    replaced = [one.id for one in new if one.id in known]
    if corpus.id_column is None and replaced:
        raise UserError(
            f"{corpus.path} has no ids, and row {replaced[0]} is in the index already with another text: "
            "give the rows a column 'id'"
        )


def delete_documents(source: str | Path, to: str) -> tuple[int, int]:
    """Remove the documents that a file names, and return how many went and how many are left.

    Parameters
    ----------
    source
        A ``.txt`` with one id a line, or a file of documents with ids.
    to
        The address of the index.

    Raises
    ------
    UserError
        If the file names no ids, or there is no index.
    """
    path = Path(source)
    corpus = documents(path)
    if path.suffix != ".txt" and corpus.id_column is None:
        raise UserError(f"{path} names no ids: expected a column 'id', or a .txt with one id a line")
    ids = [one.text if path.suffix == ".txt" else one.id for one in corpus.documents()]
    store = open_store(to)
    try:
        with store.writing():
            gone = store.delete(ids)
        return gone, len(store)
    finally:
        store.close()
