"""Addresses of indexes: which store stands behind which."""

from __future__ import annotations

import importlib

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.search.meta import Meta
from matryoshka2d.search.store import Store

STORES: dict[str, str | type[Store]] = {
    "faiss": "matryoshka2d.search.faiss_store.FaissStore",
    "postgresql": "matryoshka2d.search.pgvector_store.PgvectorStore",
    "qdrant": "matryoshka2d.search.qdrant_store.QdrantStore",
}
"""Scheme → a store, or where it is found; add a row for one of your own."""

_FORMS = (
    "faiss:FOLDER, postgresql://USER@HOST/DATABASE?table=NAME, qdrant:FOLDER or qdrant:http://HOST:6333/NAME"
)


def store_of(uri: str) -> tuple[type[Store], str]:
    """Return the kind of store of an address, and the address as that store reads it.

    Raises
    ------
    UserError
        If the scheme is not known.

    Examples
    --------
    >>> store_of("nowhere:x")
    Traceback (most recent call last):
        ...
    matryoshka2d.errors.UserError: 'nowhere:x' is no address of an index: expected faiss:FOLDER, \
postgresql://USER@HOST/DATABASE?table=NAME, qdrant:FOLDER or qdrant:http://HOST:6333/NAME
    """
    scheme, colon, rest = uri.partition(":")
    scheme = "postgresql" if scheme == "postgres" else scheme
    if not colon or scheme not in STORES or not rest:
        raise UserError(f"'{uri}' is no address of an index: expected {_FORMS}{did_you_mean(scheme, STORES)}")
    found = STORES[scheme]
    if isinstance(found, str):
        module, _, name = found.rpartition(".")
        found = getattr(importlib.import_module(module), name)
    assert isinstance(found, type)
    return found, rest


def open_store(uri: str) -> Store:
    """Open the index at an address."""
    kind, address = store_of(uri)
    return kind.open(address)


def make_store(uri: str, meta: Meta) -> Store:
    """Make an empty index at a free address, or open the one there if its record says the same.

    Raises
    ------
    UserError
        If an index of another record is there.
    """
    kind, address = store_of(uri)
    meta = kind.settled(meta)
    if not kind.exists(address):
        return kind.create(address, meta)
    store = kind.open(address)
    other = meta.other_than(store.meta)
    if other:
        raise UserError(
            f"{uri} holds another index ({'; '.join(other)}): name another address, or give the same options"
        )
    return store
