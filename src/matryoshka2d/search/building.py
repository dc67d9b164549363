"""Documents → an index: in blocks, going on where a kill stopped, embedding only what is new or changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matryoshka2d.encoder.loading import side_prompt
from matryoshka2d.errors import UserError
from matryoshka2d.files import staged_file, user_cache
from matryoshka2d.inference.shards import Run, encode_shards
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
_ROWS_PER_SHARD = 16_384


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
    run: Run | None = None,
    work: str | Path | None = None,
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
        The column of texts, if it is not recognized.
    document_prompt, query_prompt
        What is put before documents and queries. Default: the model's own prompts of those names.
    run
        Embeds somewhere else, as `matryoshka2d.inference.ray_runner.on_ray` returns; here by default.
    work
        Where the vectors wait then, in shards, until they are in the index: a folder that all machines share.
        Default: one in the user's cache.
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
            added = (
                _add_all(store, engine, corpus, show_progress_bar)
                if run is None
                else _add_shards(store, engine, corpus, run, work, show_progress_bar)
            )
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


def _add_shards(
    store: Store, engine: Engine, corpus: Corpus, run: Run, work: str | Path | None, show: bool
) -> int:
    """Let what is new be embedded in shards, add it, and return how many documents there were."""
    folder = user_cache("index") if work is None else Path(work)
    texts = folder / f"new-{_content_of(store, corpus)}.jsonl"
    if not texts.is_file() and not _write_new(store, corpus, texts):
        store.finish()
        return 0
    shards = texts.with_suffix("")
    encode_shards(
        engine,
        texts,
        shards,
        size=store.meta.size,
        suffix=".npy",
        rows_per_shard=_ROWS_PER_SHARD,
        column="text",
        prompt=store.meta.document_prompt,
        run=run,
        show_progress_bar=show,
    )
    added = 0
    with texts.open(encoding="utf-8") as lines:
        for part in sorted(shards.glob("part-*.npy")):
            vectors = np.load(part, mmap_mode="r")
            for start in range(0, len(vectors), BLOCK):
                some = np.array(vectors[start : start + BLOCK])
                waiting = [Document(**json.loads(line)) for line in islice(lines, len(some))]
                known = store.digests([one.id for one in waiting])
                rows = [row for row, one in enumerate(waiting) if known.get(one.id) != one.digest]
                if rows:
                    store.add([waiting[row] for row in rows], some[rows])
                added += len(rows)
    store.finish()
    shutil.rmtree(shards)
    texts.unlink()
    return added


def _content_of(store: Store, corpus: Corpus) -> str:
    """Return a hash of documents and size: a run that was killed finds by it what it had."""
    content = hashlib.sha256(f"{store.meta.size} {store.meta.document_prompt}".encode())
    for one in corpus.documents():
        content.update(f"{one.id} {one.digest}\n".encode())
    return content.hexdigest()[:16]


def _write_new(store: Store, corpus: Corpus, path: Path) -> int:
    """Write the documents that the store does not have into a file, and return how many there are."""
    count = 0
    with staged_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for block in blocks(corpus.documents(), BLOCK):
            known = store.digests([one.id for one in block])
            new = [one for one in block if known.get(one.id) != one.digest]
            _check_numbered(corpus, new, known)
            file.writelines(
                json.dumps({"id": one.id, "text": one.text, "fields": one.fields}) + "\n" for one in new
            )
            count += len(new)
    if not count:
        path.unlink()
    return count


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
