"""What the Qdrant store asks of Qdrant, over two ways to it: a server, and the engine in this process."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from matryoshka2d.errors import UserError, needs
from matryoshka2d.files import check_free, staged_file
from matryoshka2d.search.filters import wanted_values
from matryoshka2d.search.meta import Meta
from matryoshka2d.search.store import Where

WHOLE, HEAD = "full", "head"
"""The names of the two vectors of a point."""
MATCHED = "match"
"""Where a point keeps its fields as text: Qdrant compares with the type, and filters have none."""
_BUILD_EFFORT, _LINKS = 100, 16


@dataclass(frozen=True)
class Point:
    """A point as it goes in and comes out."""

    key: str
    vectors: dict[str, list[float]] = field(default_factory=dict)
    payload: dict[str, Any] = field(default_factory=dict)
    score: float = 0.0


@dataclass(frozen=True)
class Ask:
    """One query: the nearest by a vector, maybe among candidates that another vector finds first."""

    vector: list[float]
    using: str
    limit: int
    exact: bool = False
    effort: int = 0
    first: Ask | None = None
    where: Where | None = None


class Points(Protocol):
    """A collection of points, and a record beside it."""

    def record(self) -> str | None: ...
    def write_record(self, text: str) -> None: ...
    def create(self, meta: Meta) -> None: ...
    def upsert(self, points: Sequence[Point]) -> None: ...
    def delete(self, keys: Sequence[str]) -> None: ...
    def get(self, keys: Sequence[str], vectors: list[str]) -> list[Point]: ...
    def scroll(self, after: Any, limit: int) -> tuple[list[Point], Any]: ...
    def count(self) -> int: ...
    def query(self, ask: Ask) -> list[Point]: ...
    def finish(self) -> None: ...
    def writing(self) -> contextlib.AbstractContextManager[None]: ...
    def sibling(self) -> Points: ...
    def replace(self, sibling: Points) -> None: ...
    def bytes(self) -> dict[str, int]: ...
    def remove(self) -> None: ...
    def close(self) -> None: ...


def _filter(home: Any, where: Where | None) -> Any:
    """Return a filter in the classes of one of the two libraries."""
    if not where:
        return None
    wanted = wanted_values(where)
    return home.Filter(
        must=[
            home.FieldCondition(key=f'{MATCHED}."{name}"', match=home.MatchAny(any=texts))
            for name, texts in wanted.items()
        ]
    )


# --- the engine in this process ---------------------------------------------------------------------------


class _Opened:
    """The shards that this process has open, each once, whoever asks."""

    def __init__(self) -> None:
        self.guard = threading.RLock()
        self.shards: dict[Path, tuple[Any, int]] = {}

    def take(self, path: Path, make: Any) -> Any:
        with self.guard:
            shard, users = self.shards.get(path, (None, 0))
            shard = make() if shard is None else shard
            self.shards[path] = (shard, users + 1)
            return shard

    def leave(self, path: Path) -> None:
        with self.guard:
            shard, users = self.shards.pop(path)
            if users > 1:
                self.shards[path] = (shard, users - 1)
            else:
                shard.close()


_opened = _Opened()


class EdgePoints:
    """Qdrant's engine in this process, over a folder: ``record.json`` names the shard that counts."""

    def __init__(self, folder: Path, shard: str | None = None) -> None:
        needs("qdrant", "qdrant_edge")
        self.folder = folder.resolve()
        self._name = shard
        self._shard: Any = None

    @property
    def _home(self) -> Any:
        return importlib.import_module("qdrant_edge")

    def _read(self) -> dict[str, Any] | None:
        file = self.folder / "record.json"
        if not file.is_file():
            return None
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def record(self) -> str | None:
        found = self._read()
        return None if found is None else str(found["record"])

    def write_record(self, text: str) -> None:
        with staged_file(self.folder / "record.json") as temporary:
            temporary.write_text(json.dumps({"shard": self._name, "record": text}), encoding="utf-8")

    def create(self, meta: Meta) -> None:
        home = self._home
        if self._name is None:
            ours = self.folder.is_dir() and all(
                entry.name.startswith(("shard-", ".")) for entry in self.folder.iterdir()
            )
            if not ours:
                check_free(self.folder)
            self._name = f"shard-{uuid.uuid4().hex[:8]}"
        codes: dict[str, Any] = {
            "half": {"datatype": home.VectorStorageDatatype.Float16},
            "int8": {"quantization_config": home.ScalarQuantizationConfig(home.ScalarType.Int8)},
            "bit": {"quantization_config": home.BinaryQuantizationConfig()},
        }.get(meta.codes, {})
        graph = home.HnswIndexConfig(_LINKS if meta.graph else 0, _BUILD_EFFORT, 10_000)
        plain = home.HnswIndexConfig(0, _BUILD_EFFORT, 10_000)
        config = home.EdgeConfig(
            vectors={
                WHOLE: home.EdgeVectorParams(meta.size.dims, home.Distance.Cosine, hnsw_config=plain),
                HEAD: home.EdgeVectorParams(meta.prefix, home.Distance.Cosine, hnsw_config=graph, **codes),
            }
        )
        path = self.folder / self._name
        path.mkdir(parents=True)
        with _in_one_line(self.folder):
            self._shard = _opened.take(path, lambda: home.EdgeShard.create(str(path), config))

    def _open(self) -> Any:
        if self._shard is None:
            found = self._read()
            assert found is not None
            self._name = str(found["shard"])
            path = self.folder / self._name
            with _in_one_line(self.folder):
                self._shard = _opened.take(path, lambda: self._home.EdgeShard.load(str(path)))
        return self._shard

    def upsert(self, points: Sequence[Point]) -> None:
        home = self._home
        made = [home.Point(one.key, one.vectors, one.payload) for one in points]
        with _in_one_line(self.folder):
            self._open().update(home.UpdateOperation.upsert_points(made))
            self._open().flush()

    def delete(self, keys: Sequence[str]) -> None:
        with _in_one_line(self.folder):
            self._open().update(self._home.UpdateOperation.delete_points(list(keys)))
            self._open().flush()

    def get(self, keys: Sequence[str], vectors: list[str]) -> list[Point]:
        found = self._open().retrieve(list(keys), with_payload=True, with_vector=vectors or False)
        return [Point(str(one.id), one.vector or {}, one.payload or {}) for one in found]

    def scroll(self, after: Any, limit: int) -> tuple[list[Point], Any]:
        request = self._home.ScrollRequest(offset=after, limit=limit, with_payload=True, with_vector=[WHOLE])
        found, following = self._open().scroll(request)
        return [Point(str(one.id), one.vector or {}, one.payload or {}) for one in found], following

    def count(self) -> int:
        return int(self._open().count(self._home.CountRequest(exact=True)))

    def query(self, ask: Ask) -> list[Point]:
        home = self._home
        first = (
            []
            if ask.first is None
            else [
                home.Prefetch(
                    ask.first.limit,
                    query=home.Query.Nearest(ask.first.vector, using=ask.first.using),
                    params=self._params(ask.first),
                    filter=_filter(home, ask.first.where),
                )
            ]
        )
        request = home.QueryRequest(
            ask.limit,
            query=home.Query.Nearest(ask.vector, using=ask.using),
            prefetches=first,
            with_vector=[HEAD],
            with_payload=["id"],
            filter=_filter(home, ask.where),
            params=self._params(ask),
        )
        found = self._open().query(request)
        return [Point(str(one.id), one.vector or {}, one.payload or {}, one.score) for one in found]

    def _params(self, ask: Ask) -> Any:
        home = self._home
        return home.SearchParams(
            hnsw_ef=ask.effort or None,
            exact=ask.exact,
            quantization=home.QuantizationSearchParams(rescore=False),
        )

    def finish(self) -> None:
        with _in_one_line(self.folder):
            self._open().optimize()
            self._open().flush()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        with _alone(self.folder / ".lock", str(self.folder)):
            found = self._read()
            for path in self.folder.glob("shard-*"):
                # What a kill left of a shard that was never named.
                if found is not None and path.name != found["shard"] and path not in _opened.shards:
                    shutil.rmtree(path, ignore_errors=True)
            yield

    def sibling(self) -> EdgePoints:
        return EdgePoints(self.folder, f"shard-{uuid.uuid4().hex[:8]}")

    def replace(self, sibling: Points) -> None:
        assert isinstance(sibling, EdgePoints)
        self.close()
        assert self._name is not None
        shutil.rmtree(self.folder / self._name, ignore_errors=True)
        self._name, self._shard = sibling._name, sibling._shard

    def bytes(self) -> dict[str, int]:
        self._open()
        assert self._name is not None
        files = [path for path in (self.folder / self._name).rglob("*") if path.is_file()]
        parts = {"first stage": 0, "vectors": 0, "documents and log": 0}
        for path in files:
            size = path.stat().st_blocks * 512
            name = str(path.relative_to(self.folder))
            part = "first stage" if f"-{HEAD}" in name else "vectors" if f"-{WHOLE}" in name else None
            parts[part or "documents and log"] += size
        return parts

    def remove(self) -> None:
        self.close()
        found = self._read()
        if found is not None and self._name in (None, found["shard"]):
            shutil.rmtree(self.folder)
        elif self._name is not None:
            shutil.rmtree(self.folder / self._name, ignore_errors=True)

    def close(self) -> None:
        if self._shard is not None:
            self._shard = None
            _opened.leave(self.folder / str(self._name))


@contextlib.contextmanager
def _alone(lock_file: Path, what: str) -> Iterator[None]:
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another process is writing to {what}: wait until it has ended") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _in_one_line(place: object) -> Iterator[None]:
    """Turn what the engine or the server says into one line."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        if "WouldBlock" in str(error):
            raise UserError(f"another process has {place} open: the engine lets in one at a time") from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"Qdrant at {place} says: {lines[0][:300]}") from error


# --- a server ---------------------------------------------------------------------------------------------


class ServerPoints:
    """A collection of a Qdrant server; the record is the collection's metadata."""

    def __init__(self, client: Any, collection: str) -> None:
        self.client, self.collection = client, collection

    @property
    def _home(self) -> Any:
        return importlib.import_module("qdrant_client.models")

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        with _in_one_line(self.collection):
            return getattr(self.client, name)(self.collection, *arguments, **options)

    def record(self) -> str | None:
        if not self._call("collection_exists"):
            return None
        found = self._call("get_collection").config.metadata or {}
        record = found.get("matryoshka2d")
        if record is None:
            raise UserError(f"the collection {self.collection} is there and is no index: choose another name")
        return str(record)

    def write_record(self, text: str) -> None:
        self._call("update_collection", metadata={"matryoshka2d": text})

    def create(self, meta: Meta) -> None:
        home = self._home
        codes: dict[str, Any] = {
            "half": {"datatype": home.Datatype.FLOAT16},
            "int8": {
                "quantization_config": home.ScalarQuantization(
                    scalar=home.ScalarQuantizationConfig(type=home.ScalarType.INT8)
                )
            },
            "bit": {"quantization_config": home.BinaryQuantization(binary=home.BinaryQuantizationConfig())},
        }.get(meta.codes, {})
        cosine, on = home.Distance.COSINE, home.HnswConfigDiff
        self._call(
            "create_collection",
            vectors_config={
                WHOLE: home.VectorParams(size=meta.size.dims, distance=cosine, hnsw_config=on(m=0)),
                HEAD: home.VectorParams(
                    size=meta.prefix,
                    distance=cosine,
                    hnsw_config=on(m=_LINKS if meta.graph else 0, ef_construct=_BUILD_EFFORT),
                    **codes,
                ),
            },
            metadata={"matryoshka2d": meta.to_json()},
        )

    def upsert(self, points: Sequence[Point]) -> None:
        made = [self._home.PointStruct(id=one.key, vector=one.vectors, payload=one.payload) for one in points]
        self._call("upsert", points=made, wait=True)

    def delete(self, keys: Sequence[str]) -> None:
        self._call("delete", points_selector=list(keys), wait=True)

    def get(self, keys: Sequence[str], vectors: list[str]) -> list[Point]:
        found = self._call("retrieve", ids=list(keys), with_payload=True, with_vectors=vectors or False)
        return [Point(str(one.id), one.vector or {}, one.payload or {}) for one in found]

    def scroll(self, after: Any, limit: int) -> tuple[list[Point], Any]:
        found, following = self._call(
            "scroll", offset=after, limit=limit, with_payload=True, with_vectors=[WHOLE]
        )
        return [Point(str(one.id), one.vector, one.payload or {}) for one in found], following

    def count(self) -> int:
        return int(self._call("count", exact=True).count)

    def query(self, ask: Ask) -> list[Point]:
        home = self._home
        first = (
            None
            if ask.first is None
            else home.Prefetch(
                query=ask.first.vector,
                using=ask.first.using,
                limit=ask.first.limit,
                params=self._params(ask.first),
                filter=_filter(home, ask.first.where),
            )
        )
        found = self._call(
            "query_points",
            query=ask.vector,
            using=ask.using,
            limit=ask.limit,
            prefetch=first,
            query_filter=_filter(home, ask.where),
            search_params=self._params(ask),
            with_payload=["id"],
            with_vectors=[HEAD],
        ).points
        return [Point(str(one.id), one.vector or {}, one.payload or {}, one.score) for one in found]

    def _params(self, ask: Ask) -> Any:
        home = self._home
        return home.SearchParams(
            hnsw_ef=ask.effort or None,
            exact=ask.exact,
            quantization=home.QuantizationSearchParams(rescore=False),
        )

    def finish(self) -> None:
        """Leave building the graph to the server, which searches all the while."""

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Let anybody write: a document has one point, whoever writes it."""
        yield

    def sibling(self) -> ServerPoints:
        return ServerPoints(self.client, f"{self.collection}_{uuid.uuid4().hex[:8]}")

    def replace(self, sibling: Points) -> None:  # noqa: ARG002 - a collection keeps its name
        raise UserError("a collection of a Qdrant server is recut beside: name another with --to")

    def bytes(self) -> dict[str, int]:
        """Return what vectors and links take by their numbers: a server does not say."""
        meta = Meta.from_json(self.record() or "")
        rows, wide = self.count(), {"float": 4.0, "half": 2.0, "int8": 5.0, "bit": 4.125}
        links = 8 * _LINKS if meta.graph else 0
        return {
            "first stage": int(rows * (meta.prefix * wide[meta.codes] + links)),
            "vectors": 4 * rows * meta.size.dims,
        }

    def remove(self) -> None:
        self._call("delete_collection")

    def close(self) -> None:
        """Leave the client open: siblings use it too."""
