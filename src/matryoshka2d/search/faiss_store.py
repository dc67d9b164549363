"""The embedded store: one native Faiss index that holds the whole funnel, and a SQLite file of documents.

``index.faiss`` is an ``IndexRefineFlat`` over a first stage that cuts and normalizes, so that any user of
Faiss may open and search it. ``documents.sqlite`` holds row → id, text and fields, and says which index file
is valid: a new one is written beside the old one, and the transaction that names it makes it the index.
Vectors that are not in the index yet lie in ``pending.f32``.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import os
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from matryoshka2d.errors import UserError, needs
from matryoshka2d.files import check_free, says_no_room
from matryoshka2d.search.documents import Document
from matryoshka2d.search.filters import wanted_values
from matryoshka2d.search.meta import Meta, Vectors, cut
from matryoshka2d.search.store import Found, Funnel, Ids, Store, Where

Rows = NDArray[np.int64]

_INDEX, _DOCUMENTS, _PENDING, _LOCK = "index.faiss", "documents.sqlite", "pending.f32", ".lock"
_LINKS, _BUILD_EFFORT = 16, 64
_TRAINING_ROWS = 65_536
_BLOCK = 16_384
_MOST_DEAD = 0.1
"""The share of deleted rows from which the index is built anew without them."""
_FEW = 2_000
"""Up to so many documents that pass a filter are compared one by one: a graph would find too few of them."""
_VARIABLES = 900

_TABLES = """
create table if not exists meta (key text primary key, value text not null);
create table if not exists documents (
    row integer primary key, id text not null unique, text text not null, fields text not null,
    digest text not null);
"""
_FIELD = """case json_type(fields, ?) when 'true' then 'true' when 'false' then 'false'
    else cast(json_extract(fields, ?) as text) end"""


@dataclass
class _State:
    """An index as it was at one moment: its file, and which of its rows still are documents."""

    index: Any
    token: str
    version: int
    alive: NDArray[np.bool_]
    live: int

    def whole(self) -> Vectors:
        """Return all rows as a view: float32 [rows, dims]."""
        return _whole(self.index)


class FaissStore(Store):
    """An index in a folder; see `Store` for the methods."""

    scheme: ClassVar[str] = "faiss"

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.folder = folder
        self.meta = meta
        self._base = _connected(folder)
        self._guard = threading.RLock()
        self._state: _State | None = None
        self._pinned = False

    @classmethod
    def settled(cls, meta: Meta) -> Meta:
        needs("search", "faiss")
        # Faiss compares bits one by one, so fast that a graph would gain little.
        return replace(meta, graph=False) if meta.codes == "bit" else meta

    @classmethod
    def exists(cls, address: str) -> bool:
        file = Path(address) / _DOCUMENTS
        if not file.is_file():
            return False
        with contextlib.closing(_connected(Path(address))) as base:
            return _value(base, "meta") is not None

    @classmethod
    def create(cls, address: str, meta: Meta) -> FaissStore:
        folder = Path(address)
        ours = {_DOCUMENTS, f"{_DOCUMENTS}-journal", _LOCK}
        if folder.is_file() or not (folder.is_dir() and {entry.name for entry in folder.iterdir()} <= ours):
            check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(_connected(folder)) as base, _room(folder):
            base.executescript(f"begin immediate; {_TABLES}")
            for key, value in (("meta", meta.to_json()), ("version", "0"), ("token", ""), ("rows", "0")):
                _set(base, key, value)
            _set(base, "merged", "0")
            base.execute("commit")
        return cls(folder, meta)

    @classmethod
    def open(cls, address: str) -> FaissStore:
        needs("search", "faiss")
        folder = Path(address)
        if not cls.exists(address):
            raise UserError(f"there is no index in {folder}: expected a folder that matryoshka2d index wrote")
        with contextlib.closing(_connected(folder)) as base:
            text = _value(base, "meta")
        return cls(folder, Meta.from_json(text or ""))

    def close(self) -> None:
        self._base.close()

    # --- what is there --------------------------------------------------------------------------------

    def __len__(self) -> int:
        with self._guard:
            return int(self._base.execute("select count(*) from documents").fetchone()[0])

    def digests(self, ids: Sequence[str]) -> dict[str, str]:
        return {key: digest for key, _, _, _, digest in self._of_ids(ids)}

    def documents(self, ids: Sequence[str]) -> dict[str, Document]:
        return {key: Document(key, text, json.loads(own)) for key, _, text, own, _ in self._of_ids(ids)}

    def _of_ids(self, ids: Sequence[str]) -> Iterator[tuple[str, int, str, str, str]]:
        """Yield (id, row, text, fields, digest) of those ids that are there."""
        for start in range(0, len(ids), _VARIABLES):
            some = ids[start : start + _VARIABLES]
            marks = ",".join("?" * len(some))
            with self._guard:
                rows = self._base.execute(
                    f"select id, row, text, fields, digest from documents where id in ({marks})", some
                ).fetchall()
            yield from rows

    def vectors(self, ids: Sequence[str]) -> Vectors:
        state = self._current()
        rows = {key: row for key, row, *_ in self._of_ids(ids)}
        return np.asarray(state.whole()[[rows[key] for key in ids]], dtype=np.float32)

    def everything(self, block: int = 4096) -> Iterator[tuple[list[Document], Vectors]]:
        state = self._current()
        whole = state.whole()
        after = -1
        while True:
            with self._guard:
                rows = self._base.execute(
                    "select row, id, text, fields from documents where row > ? and row < ? order by row "
                    "limit ?",
                    (after, len(state.alive), block),
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            found = [Document(key, text, json.loads(own)) for _, key, text, own in rows]
            yield found, np.array(whole[[row[0] for row in rows]], dtype=np.float32)

    def bytes(self) -> dict[str, int]:
        file = (self.folder / _INDEX).stat().st_size
        vectors = 4 * self.meta.size.dims * len(self._current().alive)
        return {
            "first stage": file - vectors,
            "vectors": vectors,
            "documents": (self.folder / _DOCUMENTS).stat().st_size,
        }

    # --- searching ------------------------------------------------------------------------------------

    def candidates(self, queries: Vectors, funnel: Funnel) -> tuple[Ids, list[Vectors]]:
        while True:
            state = self._current()
            rows, scores = self._first(state, queries, funnel)
            ids = self._ids(state, rows)
            if ids is not None:
                return ids, scores

    def search(self, queries: Vectors, funnel: Funnel) -> Found:
        while True:
            start = time.perf_counter()
            state = self._current()
            rows, first = self._first(state, queries, funnel)
            middle = time.perf_counter()
            whole = state.whole()
            best, scores, first_scores = [], [], []
            for query, row, own in zip(queries, rows, first, strict=True):
                cosines = whole[row] @ query
                order = np.argsort(-cosines, kind="stable")[: funnel.k]
                best.append(row[order])
                scores.append(cosines[order])
                first_scores.append(own[order])
            ids = self._ids(state, best)
            end = time.perf_counter()
            if ids is not None:
                times = {"prefix": 1e3 * (middle - start), "rescore": 1e3 * (end - middle)}
                return Found(ids, scores, first_scores, times)

    def exact(self, queries: Vectors, k: int, where: Where | None = None) -> tuple[Ids, list[Vectors]]:
        faiss = _faiss()
        while True:
            state = self._current()
            allowed = self._allowed(state, where)
            count = int(allowed.sum()) if where else state.live
            options: dict[str, Any] = {}
            if count < len(allowed):
                bits = np.packbits(allowed, bitorder="little")
                options["params"] = faiss.SearchParameters(
                    sel=faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
                )
            wanted = min(k, count)
            if not wanted:
                return [[] for _ in queries], [np.empty(0, dtype=np.float32) for _ in queries]
            scores, rows = faiss.downcast_index(state.index.refine_index).search(
                np.ascontiguousarray(queries), wanted, **options
            )
            ids = self._ids(state, list(rows))
            if ids is not None:
                return ids, list(scores)

    def _first(self, state: _State, queries: Vectors, funnel: Funnel) -> tuple[list[Rows], list[Vectors]]:
        """Return rows and scores that the first stage finds, best first."""
        allowed = self._allowed(state, funnel.where)
        count = int(allowed.sum()) if funnel.where else state.live
        if not count:
            return [np.empty(0, np.int64) for _ in queries], [np.empty(0, np.float32) for _ in queries]
        filtered = funnel.where is not None and (count <= _FEW or self.meta.codes == "bit")
        if funnel.prefix != self.meta.prefix or filtered:
            return _scanned(state.whole(), np.flatnonzero(allowed), queries, funnel)
        return self._by_index(state, allowed, count, queries, funnel)

    def _by_index(
        self, state: _State, allowed: NDArray[np.bool_], count: int, queries: Vectors, funnel: Funnel
    ) -> tuple[list[Rows], list[Vectors]]:
        """Search the first stage of the native index."""
        faiss = _faiss()
        wanted, gone = min(funnel.candidates, count), len(allowed) - count
        # The selector does not keep its bits: they must live as long as the search.
        bits = np.packbits(allowed, bitorder="little") if gone else None
        selector = None if bits is None else faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
        base = faiss.downcast_index(state.index.base_index)
        queries = np.ascontiguousarray(queries)
        if self.meta.codes == "bit":
            # This index takes no selector: what is gone is asked for too, and left out.
            differing, rows = base.search(queries, min(wanted + gone, len(allowed)))
            scores = (1 - 2 * differing / self.meta.prefix).astype(np.float32)
        else:
            own = (
                faiss.SearchParametersHNSW(sel=selector, efSearch=max(funnel.effort, wanted))
                if self.meta.graph
                else faiss.SearchParameters(sel=selector)
            )
            scores, rows = base.search(
                queries, wanted, params=faiss.SearchParametersPreTransform(index_params=own)
            )
        kept = [(row >= 0) & allowed[row] for row in rows]
        return (
            [row[keep][:wanted] for row, keep in zip(rows, kept, strict=True)],
            [score[keep][:wanted] for score, keep in zip(scores, kept, strict=True)],
        )

    def _allowed(self, state: _State, where: Where | None) -> NDArray[np.bool_]:
        """Return which rows are documents that pass the filter."""
        if not where:
            return state.alive
        conditions, values = [], []
        for name, texts in wanted_values(where).items():
            path = f'$."{name}"'
            conditions.append(f"{_FIELD} in ({','.join('?' * len(texts))})")
            values += [path, path, *texts]
        with self._guard:
            rows = self._base.execute(
                f"select row from documents where {' and '.join(conditions)}", values
            ).fetchall()
        allowed = np.zeros(len(state.alive), dtype=bool)
        numbers = np.array([row for (row,) in rows], dtype=np.int64)
        allowed[numbers[numbers < len(allowed)]] = True
        return allowed

    def _ids(self, state: _State, rows: Sequence[Rows]) -> Ids | None:
        """Return the ids of rows, or None if the index has changed meanwhile."""
        distinct = [int(row) for row in np.unique(np.concatenate(rows))] if len(rows) else []
        names: dict[int, str] = {}
        with self._guard, _transaction(self._base):
            if not self._pinned and _value(self._base, "version") != str(state.version):
                return None
            for start in range(0, len(distinct), _VARIABLES):
                some = distinct[start : start + _VARIABLES]
                marks = ",".join("?" * len(some))
                names |= dict(
                    self._base.execute(f"select row, id from documents where row in ({marks})", some)
                )
        return [[names[int(row)] for row in one] for one in rows]

    def _current(self) -> _State:
        """Return the index as it is now, read anew if another process has written."""
        with self._guard:
            if self._state is not None and self._pinned:
                return self._state
            with _transaction(self._base):
                version, token = int(_value(self._base, "version") or 0), _value(self._base, "token") or ""
                if self._state is not None and self._state.version == version:
                    return self._state
                if not token:
                    raise UserError(
                        f"the index in {self.folder} is not finished: run the same index command again, "
                        "and it goes on"
                    )
                self.meta = Meta.from_json(_value(self._base, "meta") or "")
                same = self._state is not None and self._state.token == token
                index = self._state.index if same and self._state is not None else self._read(token)
                alive = np.zeros(index.ntotal, dtype=bool)
                rows = self._base.execute("select row from documents where row < ?", (index.ntotal,))
                alive[np.fromiter((row for (row,) in rows), dtype=np.int64)] = True
                self._state = _State(index, token, version, alive, int(alive.sum()))
                return self._state

    def _read(self, token: str, *, mapped: bool = True) -> Any:
        """Return the native index of a token: under its final name, or under the one it was written as."""
        faiss = _faiss()
        flags = faiss.IO_FLAG_MMAP_IFC if mapped else 0
        with contextlib.suppress(RuntimeError):
            return faiss.read_index(str(self.folder / f".index-{token}.faiss"), flags)
        try:
            return faiss.read_index(str(self.folder / _INDEX), flags)
        except RuntimeError as error:
            raise UserError(f"{self.folder / _INDEX} is missing or damaged: index anew") from error

    # --- writing --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        lock = FileLock(self.folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"another process is writing to {self.folder}: wait until it has ended"
            ) from error
        try:
            self._tidy()
            with _room(self.folder):
                yield
        finally:
            lock.release()

    def _tidy(self) -> None:
        """Finish the rename that a kill cut short, and remove what was written in vain."""
        token = _value(self._base, "token")
        for file in self.folder.glob(".index-*.faiss"):
            if file.name == f".index-{token}.faiss":
                file.replace(self.folder / _INDEX)
            else:
                file.unlink()

    def add(self, documents: Sequence[Document], vectors: Vectors) -> None:
        self._check_vectors(documents, vectors)
        first, merged = (int(_value(self._base, key) or 0) for key in ("rows", "merged"))
        width = 4 * self.meta.size.dims
        with _room(self.folder), (self.folder / _PENDING).open("ab") as file:
            file.truncate((first - merged) * width)
            file.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        rows = [
            (first + number, one.id, one.text, json.dumps(one.fields, ensure_ascii=False), one.digest)
            for number, one in enumerate(documents)
        ]
        with self._guard, _room(self.folder), _transaction(self._base, write=True):
            # A document of the same id goes with this, and its row is dead.
            self._base.executemany("insert or replace into documents values (?, ?, ?, ?, ?)", rows)
            _set(self._base, "rows", str(first + len(rows)))
            _count_up(self._base)

    def _check_vectors(self, documents: Sequence[Document], vectors: Vectors) -> None:
        if vectors.shape != (len(documents), self.meta.size.dims):
            raise UserError(
                f"vectors of shape {list(vectors.shape)} for {len(documents)} documents: expected "
                f"[{len(documents)}, {self.meta.size.dims}]"
            )

    def finish(self) -> None:
        # Nobody else writes meanwhile, and whoever searches goes on with the index as it is.
        rows, merged = (int(_value(self._base, key) or 0) for key in ("rows", "merged"))
        token = _value(self._base, "token") or ""
        live = len(self)
        if token and rows == merged and live >= (1 - _MOST_DEAD) * rows:
            return
        if not token or live < (1 - _MOST_DEAD) * rows:
            self._rebuild(self.meta)
            return
        index = self._read(token, mapped=False)
        for block in _blocks(self._pending(rows - merged)):
            index.add(block)
        self._publish(index, self.meta, rows)

    def delete(self, ids: Sequence[str]) -> int:
        before = len(self)
        with self._guard, _room(self.folder), _transaction(self._base, write=True):
            self._base.executemany("delete from documents where id = ?", [(key,) for key in ids])
            _count_up(self._base)
        self.finish()
        return before - len(self)

    def recut(self, meta: Meta) -> None:
        self.finish()
        self._rebuild(meta)

    def write_meta(self, meta: Meta) -> None:
        with self._guard, _room(self.folder), _transaction(self._base, write=True):
            _set(self._base, "meta", meta.to_json())
        self.meta = meta

    def remove(self) -> None:
        self.close()
        shutil.rmtree(self.folder)

    def _pending(self, rows: int) -> Vectors:
        """Return the vectors that are not in the index yet, as a map of their file."""
        shape = (rows, self.meta.size.dims)
        if not rows:
            return np.empty(shape, dtype=np.float32)
        return np.memmap(self.folder / _PENDING, dtype="<f4", mode="r", shape=shape)

    def _rebuild(self, meta: Meta) -> None:
        """Build the index of a record from the vectors of all documents, without the rows that are gone."""
        rows, merged = (int(_value(self._base, key) or 0) for key in ("rows", "merged"))
        token = _value(self._base, "token") or ""
        # The rows are a view of this index: it has to live as long.
        before = self._read(token) if token else None
        parts = [] if before is None else [_whole(before)]
        parts.append(self._pending(rows - merged))
        alive = np.zeros(rows, dtype=bool)
        with self._guard:
            found = self._base.execute("select row from documents").fetchall()
        alive[[row for (row,) in found]] = True
        index = _new_index(meta)
        sample = _rows_of(parts, _spread(np.flatnonzero(alive), _TRAINING_ROWS))
        # Codes are trained on what they will hold; an empty index has nothing to train on.
        index.train(cut(sample, meta.size.dims) if len(sample) else np.eye(meta.size.dims, dtype=np.float32))
        live = np.flatnonzero(alive)
        for start in range(0, len(live), _BLOCK):
            index.add(cut(_rows_of(parts, live[start : start + _BLOCK]), meta.size.dims))
        self._publish(index, meta, len(live), renumber=len(live) < rows)

    def _publish(self, index: Any, meta: Meta, rows: int, *, renumber: bool = False) -> None:
        """Write an index beside the old one, name it in the transaction, and give it its final name."""
        faiss = _faiss()
        token = uuid.uuid4().hex[:12]
        written = self.folder / f".index-{token}.faiss"
        try:
            with _room(self.folder):
                faiss.write_index(index, str(written))
                with self._guard, _transaction(self._base, write=True):
                    for statement in _RENUMBER if renumber else ():
                        self._base.execute(statement)
                    for key, value in (("token", token), ("rows", str(rows)), ("merged", str(rows))):
                        _set(self._base, key, value)
                    _set(self._base, "meta", meta.to_json())
                    _count_up(self._base)
        except BaseException:
            written.unlink(missing_ok=True)
            raise
        self.meta = meta
        self._state = None
        written.replace(self.folder / _INDEX)
        (self.folder / _PENDING).unlink(missing_ok=True)

    @contextlib.contextmanager
    def trial(self, prefix: int) -> Iterator[Store]:
        if prefix == self.meta.prefix:
            yield self
            return
        faiss = _faiss()
        state = self._current()
        twin = copy.copy(self)
        twin.meta = replace(self.meta, prefix=prefix)
        base = _first_stage(twin.meta)
        whole = state.whole()
        base.train(np.array(whole[_spread(np.arange(len(whole)), _TRAINING_ROWS)]))
        for block in _blocks(whole):
            base.add(block)
        twin._state = replace(state, index=faiss.IndexRefine(base, state.index.refine_index))
        twin._pinned = True
        yield twin


# Rows keep their order; the detour over negative numbers keeps them distinct all the time.
_RENUMBER = (
    "create temp table ranks as "
    "select row as old, row_number() over (order by row) - 1 as new from documents",
    "create unique index temp.ranks_old on ranks (old)",
    "update documents set row = -1 - (select new from ranks where old = row)",
    "update documents set row = -1 - row",
    "drop table temp.ranks",
)


def _faiss() -> Any:
    # The types that come with Faiss are behind the library.
    return importlib.import_module("faiss")


def _new_index(meta: Meta) -> Any:
    """Return the empty funnel of a record: a first stage over the prefix, refined by whole vectors."""
    faiss = _faiss()
    index = faiss.IndexRefineFlat(_first_stage(meta))
    index.k_factor = float(meta.choice.oversample)
    return index


def _first_stage(meta: Meta) -> Any:
    faiss = _faiss()
    prefix, product = meta.prefix, faiss.METRIC_INNER_PRODUCT
    quantizer = {"half": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}
    if meta.codes == "bit":
        inner = faiss.IndexLSH(prefix, prefix, False, False)
        inner.metric_type = product
    elif meta.graph:
        if meta.codes == "float":
            inner = faiss.IndexHNSWFlat(prefix, _LINKS, product)
        else:
            inner = faiss.IndexHNSWSQ(prefix, quantizer[meta.codes], _LINKS, product)
        inner.hnsw.efConstruction = _BUILD_EFFORT
        inner.hnsw.efSearch = max(meta.choice.effort, 10 * meta.choice.oversample)
    elif meta.codes == "float":
        inner = faiss.IndexFlatIP(prefix)
    else:
        inner = faiss.IndexScalarQuantizer(prefix, quantizer[meta.codes], product)
    base = faiss.IndexPreTransform(inner)
    base.prepend_transform(faiss.NormalizationTransform(prefix, 2.0))
    base.prepend_transform(faiss.RemapDimensionsTransform(meta.size.dims, prefix, False))
    return base


def _whole(index: Any) -> Vectors:
    """Return the whole vectors as a view of the index, which must be kept as long as the view is used."""
    faiss = _faiss()
    refine = faiss.downcast_index(index.refine_index)
    if not refine.ntotal:
        return np.empty((0, refine.d), dtype=np.float32)
    flat = faiss.rev_swig_ptr(refine.get_xb(), refine.ntotal * refine.d)
    view: Vectors = flat.reshape(refine.ntotal, refine.d)
    return view


def _rows_of(parts: Sequence[Vectors], rows: Rows) -> Vectors:
    """Return rows that are numbered through several arrays."""
    starts = np.cumsum([0, *map(len, parts)])
    out = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
    for part, start, stop in zip(parts, starts, starts[1:], strict=False):
        inside = (rows >= start) & (rows < stop)
        out[inside] = part[rows[inside] - start]
    return out


def _spread(rows: Rows, most: int) -> Rows:
    """Return at most so many of the rows, evenly spread."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _blocks(vectors: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(vectors), _BLOCK):
        yield np.array(vectors[start : start + _BLOCK], dtype=np.float32)


def _scanned(
    whole: Vectors, rows: Rows, queries: Vectors, funnel: Funnel
) -> tuple[list[Rows], list[Vectors]]:
    """Compare the prefix of every given row: the first stage without an index."""
    asked = cut(queries, funnel.prefix)
    best = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(rows), _BLOCK):
        some = rows[start : start + _BLOCK]
        found = asked @ cut(whole[some], funnel.prefix).T
        scores = np.concatenate([scores, found], axis=1)
        best = np.concatenate([best, np.broadcast_to(some, found.shape)], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : funnel.candidates]
        scores, best = np.take_along_axis(scores, order, 1), np.take_along_axis(best, order, 1)
    return list(best), list(scores)


# --- the file of documents --------------------------------------------------------------------------------


def _connected(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        folder / _DOCUMENTS, timeout=30, isolation_level=None, check_same_thread=False, cached_statements=256
    )


def _value(base: sqlite3.Connection, key: str) -> str | None:
    try:
        found = base.execute("select value from meta where key = ?", (key,)).fetchone()
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error):
            return None
        raise UserError(f"the documents of the index are damaged ({error}): index anew") from error
    return None if found is None else str(found[0])


def _set(base: sqlite3.Connection, key: str, value: str) -> None:
    base.execute("insert or replace into meta values (?, ?)", (key, value))


def _count_up(base: sqlite3.Connection) -> None:
    """Let readers know that something changed."""
    _set(base, "version", str(int(_value(base, "version") or 0) + 1))


@contextlib.contextmanager
def _transaction(base: sqlite3.Connection, *, write: bool = False) -> Iterator[None]:
    base.execute("begin immediate" if write else "begin")
    try:
        yield
        base.execute("commit")
    except BaseException:
        # A commit for which there was no room has gone back by itself.
        if base.in_transaction:
            base.execute("rollback")
        raise


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Say in one line that the disk is full."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # SQLite calls a limit on the size of files so.
        if not says_no_room(error) and "disk I/O error" not in str(error):
            raise
        raise UserError(
            f"no room on the disk for {folder}, or a limit on the size of files: make some and run the same "
            "command again, and it goes on"
        ) from error
