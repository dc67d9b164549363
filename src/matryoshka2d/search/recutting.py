"""Another prefix, other codes or fewer dims, from the vectors that are stored: nothing is embedded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from matryoshka2d.errors import UserError
from matryoshka2d.search.meta import Choice, Meta, Vectors, cut, default_prefix, encoded
from matryoshka2d.search.store import poured
from matryoshka2d.search.stores import make_store, open_store, store_of
from matryoshka2d.size import Size


def recut(
    uri: str,
    *,
    dims: int | None = None,
    prefix: int | None = None,
    codes: str | None = None,
    to: str | None = None,
) -> Meta:
    """Give an index another prefix, other codes or fewer dims, in place or beside.

    The result finds what an index built anew at that size finds. A kill leaves the old index as it was; one
    beside goes on when the same call is made again.

    Parameters
    ----------
    uri
        The index.
    dims
        How many leading dims of the stored vectors to keep.
    prefix
        How many the first stage compares. Default: as before, or a third of the dims where that is no longer
        less than the dims.
    codes
        How it keeps them. Default: as before.
    to
        The address of a new index; it may be in another store. Default: in place.

    Returns
    -------
    Meta
        The record of the result.

    Raises
    ------
    UserError
        If the index has fewer dims, or nothing was asked for.
    """
    if dims is None and prefix is None and codes is None and to is None:
        raise UserError("nothing to recut: name --dims, --prefix or --codes, or --to for a copy")
    store = open_store(uri)
    try:
        meta = recut_meta(store.meta, dims, prefix, codes)
        if to is None:
            meta = type(store).settled(meta)
            with store.writing():
                store.recut(meta)
            return store.meta
        if store_of(to) == store_of(uri):
            raise UserError(f"{to} is the index itself: leave out --to to recut it in place")
        target = make_store(to, meta)
        try:
            with target.writing():
                poured(store, target)
            return target.meta
        finally:
            target.close()
    finally:
        store.close()


def recut_meta(meta: Meta, dims: int | None, prefix: int | None, codes: str | None) -> Meta:
    """Return the record of an index after the cut: its choice was made for the old one, and goes."""
    wanted = meta.size.dims if dims is None else dims
    if not 1 <= wanted <= meta.size.dims:
        raise UserError(
            f"{wanted} dims cannot be cut out of vectors of {meta.size.dims}: use 1 to {meta.size.dims}"
        )
    if prefix is None:
        prefix = meta.prefix if meta.prefix < wanted or dims is None else default_prefix(wanted)
    changes: dict[str, Any] = (
        {"choice": Choice()} if (wanted, prefix) != (meta.size.dims, meta.prefix) else {}
    )
    return replace(
        meta,
        size=Size(meta.size.layers, wanted),
        prefix=prefix,
        codes=meta.codes if codes is None else codes,
        probes={n: encoded(_narrower(meta.probe_vectors(n), wanted)) for n in meta.probes},
        **changes,
    )


def _narrower(vectors: Vectors, dims: int) -> Vectors:
    return vectors if vectors.shape[1] == dims else cut(vectors, dims)
