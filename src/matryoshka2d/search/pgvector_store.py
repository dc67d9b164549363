"""PostgreSQL with pgvector: a table of documents, and an index on the prefix of its column of vectors.

The first stage is an HNSW index on an expression, ``subvector(embedding, 1, prefix)``, so that nothing is
stored twice in the table. pgvector uses it only for a query with that very expression, and hands out no more
candidates than ``hnsw.ef_search``; both are seen to here.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np

from matryoshka2d.errors import UserError, needs
from matryoshka2d.search.documents import Document
from matryoshka2d.search.filters import wanted_values
from matryoshka2d.search.meta import Meta, Vectors
from matryoshka2d.search.store import Found, Funnel, Ids, Store, Where

_LEAST_VERSION = (0, 8, 4)
"""Before it, HNSW indexes could be damaged by vacuum and by builds in several processes."""
_MOST_DIMS = {"float": 2_000, "half": 4_000, "bit": 64_000}
_MOST_STORED = 16_000
_MOST_EFFORT = 1_000
_BUILD_MEMORY = "1GB"
_PATIENCE = 4.0
"""Seconds to wait for the lock: the server sees after one second that a writer was killed."""
_NO_ROOM = ("No space left on device", "File too large", "Disk quota exceeded")
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_RECORDS = "matryoshka2d_indexes"


class PgvectorStore(Store):
    """An index in a table; see `Store` for the methods.

    One connection serves all threads, one statement at a time.
    """

    scheme: ClassVar[str] = "postgresql"

    def __init__(self, address: str) -> None:
        needs("pgvector", "psycopg", "pgvector")
        self.server, self.table = _parted(address)
        self._guard = threading.RLock()
        self._connection: Any = None

    @classmethod
    def settled(cls, meta: Meta) -> Meta:
        if meta.codes not in _MOST_DIMS:
            raise UserError(
                f"PostgreSQL has no index over {meta.codes}: take {', '.join(_MOST_DIMS)} as codes"
            )
        if meta.size.dims > _MOST_STORED:
            raise UserError(f"PostgreSQL keeps vectors of at most {_MOST_STORED} dims, not {meta.size.dims}")
        most = _MOST_DIMS[meta.codes]
        if meta.graph and meta.prefix > most:
            raise UserError(
                f"PostgreSQL indexes at most {most} dims as {meta.codes}, not {meta.prefix}: take a shorter "
                "prefix, or half (4000) or bit (64000) as codes"
            )
        return meta

    @classmethod
    def exists(cls, address: str) -> bool:
        store = cls(address)
        try:
            return store._record() is not None
        finally:
            store.close()

    @classmethod
    def create(cls, address: str, meta: Meta) -> PgvectorStore:
        store = cls(address)
        with store._statements() as run:
            if run(f"select to_regclass('{store.table}')").fetchone()[0] is not None:
                raise UserError(
                    f"the table {store.table} is there and is no index: name another with ?table=NAME"
                )
            run(f"create table if not exists {_RECORDS} (name text primary key, record text not null)")
            run(
                f"create table {store.table} (place bigint generated always as identity unique, "
                "id text primary key, text text not null, fields jsonb not null default '{}', "
                f"digest text not null default '', embedding vector({meta.size.dims}) not null)"
            )
            run(f"insert into {_RECORDS} values (%s, %s)", (store.table, meta.to_json()))
        store.meta = meta
        return store

    @classmethod
    def open(cls, address: str) -> PgvectorStore:
        store = cls(address)
        record = store._record()
        if record is None:
            store.close()
            raise UserError(
                f"there is no index in table {store.table}: expected one that matryoshka2d index wrote"
            )
        store.meta = Meta.from_json(record)
        return store

    def _record(self) -> str | None:
        with self._statements() as run:
            if run(f"select to_regclass('{_RECORDS}')").fetchone()[0] is None:
                return None
            found = run(f"select record from {_RECORDS} where name = %s", (self.table,)).fetchone()
        return None if found is None else str(found[0])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- what is there --------------------------------------------------------------------------------

    def __len__(self) -> int:
        with self._statements() as run:
            return int(run(f"select count(*) from {self.table}").fetchone()[0])

    def digests(self, ids: Sequence[str]) -> dict[str, str]:
        with self._statements() as run:
            return dict(
                run(f"select id, digest from {self.table} where id = any(%s)", (list(ids),)).fetchall()
            )

    def documents(self, ids: Sequence[str]) -> dict[str, Document]:
        with self._statements() as run:
            rows = run(
                f"select id, text, fields from {self.table} where id = any(%s)", (list(ids),)
            ).fetchall()
        return {key: Document(key, text, fields) for key, text, fields in rows}

    def vectors(self, ids: Sequence[str]) -> Vectors:
        with self._statements() as run:
            rows = run(f"select id, embedding from {self.table} where id = any(%s)", (list(ids),)).fetchall()
        found = dict(rows)
        return np.array([_array(found[key]) for key in ids], dtype=np.float32)

    def everything(self, block: int = 4096) -> Iterator[tuple[list[Document], Vectors]]:
        after = 0
        while True:
            with self._statements() as run:
                rows = run(
                    f"select place, id, text, fields, embedding from {self.table} where place > %s "
                    "order by place limit %s",
                    (after, block),
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            found = [Document(key, text, fields) for _, key, text, fields, _ in rows]
            yield found, np.array([_array(row[-1]) for row in rows], dtype=np.float32)

    def bytes(self) -> dict[str, int]:
        with self._statements() as run:
            first, table, everything = run(
                f"select coalesce(pg_relation_size(to_regclass('{self.table}_prefix')), 0), "
                f"pg_table_size('{self.table}'), pg_total_relation_size('{self.table}')"
            ).fetchone()
        return {"first stage": first, "vectors and documents": table, "keys": everything - first - table}

    # --- searching ------------------------------------------------------------------------------------

    def candidates(self, queries: Vectors, funnel: Funnel) -> tuple[Ids, list[Vectors]]:
        found = self.search(queries, replace(funnel, k=funnel.candidates))
        order = [np.argsort(-scores, kind="stable") for scores in found.first_scores]
        ids = [[row[place] for place in best] for row, best in zip(found.ids, order, strict=True)]
        scores = [row[best] for row, best in zip(found.first_scores, order, strict=True)]
        return ids, scores

    def search(self, queries: Vectors, funnel: Funnel) -> Found:
        """Find and rescore in one statement."""
        statement, values = self._statement(funnel)
        start = time.perf_counter()
        rows = []
        with self._statements() as run:
            self._prepare(run, funnel)
            for query in queries:
                filled = {**values, "query": query, "head": query[: funnel.prefix]}
                rows.append(run(statement, filled, binary=True).fetchall())
        ids = [[key for key, _, _ in row] for row in rows]
        scores = [np.array([1 - distance for _, distance, _ in row], dtype=np.float32) for row in rows]
        first = [np.array([score for _, _, score in row], dtype=np.float32) for row in rows]
        return Found(ids, scores, first, {"prefix and rescore": 1e3 * (time.perf_counter() - start)})

    def exact(self, queries: Vectors, k: int, where: Where | None = None) -> tuple[Ids, list[Vectors]]:
        condition, values = _condition(where)
        rows = []
        with self._statements() as run:
            for query in queries:
                rows.append(
                    run(
                        f"select id, embedding <=> %(query)b from {self.table} {condition} "
                        "order by embedding <=> %(query)b, place limit %(k)s",
                        {**values, "query": query, "k": k},
                        binary=True,
                    ).fetchall()
                )
        ids = [[key for key, _ in row] for row in rows]
        return ids, [np.array([1 - distance for _, distance in row], dtype=np.float32) for row in rows]

    def plan(self, query: Vectors, funnel: Funnel) -> str:
        """Return how PostgreSQL would carry out a search, as EXPLAIN prints it."""
        statement, values = self._statement(funnel)
        with self._statements() as run:
            self._prepare(run, funnel)
            filled = {**values, "query": query, "head": query[: funnel.prefix]}
            return "\n".join(line for (line,) in run(f"explain {statement}", filled).fetchall())

    def _statement(self, funnel: Funnel) -> tuple[str, dict[str, Any]]:
        """Return the statement of a search: candidates by the prefix inside, whole vectors outside."""
        condition, values = _condition(funnel.where)
        codes, prefix = self.meta.codes, funnel.prefix
        near = f"{_expression(codes, prefix)} {_operator(codes)} {_asked(codes, prefix)}"
        score = f"1 - 2 * first / {prefix}" if codes == "bit" else "1 - first"
        statement = (
            f"with candidates as materialized (select id, embedding, place, {near} as first "
            f"from {self.table} {condition} order by {near} limit %(candidates)s) "
            f"select id, embedding <=> %(query)b as distance, {score} from candidates "
            "order by distance, place limit %(k)s"
        )
        return statement, {**values, "candidates": funnel.candidates, "k": funnel.k}

    def _prepare(self, run: Any, funnel: Funnel) -> None:
        """Let the index hand out as many candidates as are asked for; filters come after it."""
        effort = min(_MOST_EFFORT, max(funnel.effort, funnel.candidates))
        indexed = self.meta.graph and funnel.prefix == self.meta.prefix
        settings = {
            "hnsw.ef_search": effort,
            "hnsw.iterative_scan": "relaxed_order",
            "hnsw.max_scan_tuples": 2**31 - 1,
            "hnsw.scan_mem_multiplier": 8,
            # Of a small table PostgreSQL would rather read everything; with a filter that may be right.
            "enable_seqscan": "off" if indexed and not funnel.where else "on",
        }
        names = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
        run(f"select {names}")

    # --- writing --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        key = f"matryoshka2d {self.table}"
        end = time.monotonic() + _PATIENCE
        while not self._locked(key):
            if time.monotonic() < end:
                time.sleep(0.2)
                continue
            raise UserError(f"another process is writing to {self.table}: wait until it has ended")
        try:
            yield
        finally:
            # A connection that was lost has let go of the lock.
            with contextlib.suppress(UserError), self._statements() as run:
                run("select pg_advisory_unlock(hashtextextended(%s, 0))", (key,))

    def _locked(self, key: str) -> bool:
        with self._statements() as run:
            return bool(run("select pg_try_advisory_lock(hashtextextended(%s, 0))", (key,)).fetchone()[0])

    def add(self, documents: Sequence[Document], vectors: Vectors) -> None:
        columns = "id, text, fields, digest, embedding"
        from psycopg.types.json import Jsonb

        with self._statements() as run:
            run(
                f"create temp table incoming on commit drop as select {columns} from {self.table} "
                "with no data"
            )
            with (
                self._connection.cursor() as cursor,
                cursor.copy(f"copy incoming ({columns}) from stdin with (format binary)") as copy,
            ):
                copy.set_types(["text", "text", "jsonb", "text", "vector"])
                for one, vector in zip(documents, vectors, strict=True):
                    copy.write_row((one.id, one.text, Jsonb(one.fields), one.digest, vector))
            run(
                f"insert into {self.table} ({columns}) select {columns} from incoming "
                "on conflict (id) do update set text = excluded.text, fields = excluded.fields, "
                "digest = excluded.digest, embedding = excluded.embedding"
            )

    def finish(self) -> None:
        self._build(self.meta, f"{self.table}_prefix")
        with self._statements() as run:
            run(f"analyze {self.table}")
        if self.meta.graph:
            self._check_plan()

    def _check_plan(self) -> None:
        """See that a search would use the index."""
        funnel = Funnel(1, 1, 1, self.meta.prefix)
        shown = self.plan(np.ones(self.meta.size.dims, dtype=np.float32), funnel)
        if f"{self.table}_prefix" not in shown:
            raise UserError(
                f"PostgreSQL would not use the index {self.table}_prefix: drop it, and run the command again"
            )

    def _build(self, meta: Meta, name: str) -> None:
        if not meta.graph:
            return
        operators = {"float": "vector_cosine_ops", "half": "halfvec_cosine_ops", "bit": "bit_hamming_ops"}
        statement = (
            f"create index if not exists {name} on {self.table} using hnsw "
            f"(({_expression(meta.codes, meta.prefix)}) {operators[meta.codes]})"
        )
        try:
            self._run_build(statement)
        except UserError as error:
            if "shared memory" not in str(error):
                raise
            # Several processes build in shared memory, of which containers have little.
            self._run_build(statement, "set local max_parallel_maintenance_workers = 0")

    def _run_build(self, statement: str, *before: str) -> None:
        with self._statements() as run:
            for setting in (f"set local maintenance_work_mem = '{_BUILD_MEMORY}'", *before):
                run(setting)
            run(statement)

    def delete(self, ids: Sequence[str]) -> int:
        with self._statements() as run:
            return int(run(f"delete from {self.table} where id = any(%s)", (list(ids),)).rowcount)

    def recut(self, meta: Meta) -> None:
        dims = meta.size.dims
        with self._statements():
            with self._statements() as run:
                run(f"drop index if exists {self.table}_prefix")
                if dims != self.meta.size.dims:
                    run(
                        f"alter table {self.table} alter column embedding type vector({dims}) "
                        f"using l2_normalize(subvector(embedding, 1, {dims}))::vector({dims})"
                    )
            self._build(meta, f"{self.table}_prefix")
            self.write_meta(meta)
        with self._statements() as run:
            run(f"analyze {self.table}")

    @contextlib.contextmanager
    def trial(self, prefix: int) -> Iterator[Store]:
        if prefix == self.meta.prefix:
            yield self
            return
        twin = PgvectorStore.__new__(PgvectorStore)
        twin.__dict__.update(self.__dict__)
        twin.meta = self.settled(replace(self.meta, prefix=prefix))
        name = f"{self.table}_trial_{prefix}"
        self._build(twin.meta, name)
        try:
            yield twin
        finally:
            with self._statements() as run:
                run(f"drop index if exists {name}")

    def write_meta(self, meta: Meta) -> None:
        with self._statements() as run:
            run(f"update {_RECORDS} set record = %s where name = %s", (meta.to_json(), self.table))
        self.meta = meta

    def remove(self) -> None:
        with self._statements() as run:
            run(f"drop table {self.table}")
            run(f"delete from {_RECORDS} where name = %s", (self.table,))
        self.close()

    # --- the connection -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _statements(self) -> Iterator[Any]:
        """Yield a function that runs statements of one transaction; what goes wrong is one line."""
        psycopg: Any = importlib.import_module("psycopg")
        with self._guard:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._connected()
                with self._connection.transaction():
                    yield self._connection.execute
            except psycopg.Error as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise UserError(f"PostgreSQL says: {reason}{_way_out(error)}") from error

    def _connected(self) -> Any:
        psycopg: Any = importlib.import_module("psycopg")
        adapter: Any = importlib.import_module("pgvector.psycopg")
        connection = psycopg.connect(self.server, autocommit=True, connect_timeout=10)
        connection.execute("set client_min_messages = warning")
        # What a killed process has begun ends with it, and so does its lock.
        connection.execute("set client_connection_check_interval = '1s'")
        connection.execute("create extension if not exists vector")
        found = connection.execute("select extversion from pg_extension where extname = 'vector'").fetchone()
        version = tuple(int(part) for part in found[0].split("."))
        if version < _LEAST_VERSION:
            connection.close()
            wanted = ".".join(map(str, _LEAST_VERSION))
            raise UserError(f"the server has pgvector {found[0]}: install {wanted} or newer")
        adapter.register_vector(connection)
        return connection


def _way_out(error: Exception) -> str:
    """Return what to do about an error of the server, where that is known."""
    errors: Any = importlib.import_module("psycopg.errors")
    if isinstance(error, errors.DiskFull) or any(word in str(error) for word in _NO_ROOM):
        return ": make room on the server's disk and run the command again, and it goes on"
    if isinstance(error, errors.OperationalError):
        return ": is the server running? Run the command again, and it goes on"
    return ""


def _parted(address: str) -> tuple[str, str]:
    """Return the server's address as its library reads it, and the name of the table."""
    parts = urlsplit(f"postgresql:{address}")
    values = parse_qsl(parts.query, keep_blank_values=True)
    table = dict(values).get("table", "documents")
    if not _NAME.fullmatch(table):
        raise UserError(
            f"'{table}' cannot be the table of an index: use up to 48 small letters, digits and _"
        )
    kept = urlencode([(name, value) for name, value in values if name != "table"])
    server = urlunsplit(("postgresql", parts.netloc, parts.path, kept, ""))
    # An address without a host keeps its two slashes.
    return server.replace("postgresql:/", "postgresql:///", 1) if not parts.netloc else server, table


def _expression(codes: str, prefix: int) -> str:
    """Return what is indexed."""
    head = f"subvector(embedding, 1, {prefix})"
    if codes == "bit":
        return f"binary_quantize({head})::bit({prefix})"
    return f"{head}::{'halfvec' if codes == 'half' else 'vector'}({prefix})"


def _asked(codes: str, prefix: int) -> str:
    """Return the query's side of the comparison."""
    if codes == "bit":
        return f"binary_quantize(%(head)b::vector({prefix}))::bit({prefix})"
    cast = f"%(head)b::vector({prefix})"
    return f"{cast}::halfvec({prefix})" if codes == "half" else cast


def _operator(codes: str) -> str:
    return "<~>" if codes == "bit" else "<=>"


def _condition(where: Where | None) -> tuple[str, dict[str, Any]]:
    """Return the WHERE clause of a filter and its values."""
    if not where:
        return "", {}
    clauses: list[str] = []
    values: dict[str, Any] = {}
    for number, (name, texts) in enumerate(wanted_values(where).items()):
        clauses.append(f"fields ->> %(name{number})s = any(%(texts{number})s)")
        values |= {f"name{number}": name, f"texts{number}": texts}
    return f"where {' and '.join(clauses)}", values


def _array(value: Any) -> Vectors:
    """Return a vector as the adapter's versions hand it out."""
    return np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value, dtype=np.float32)
