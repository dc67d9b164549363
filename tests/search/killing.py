"""Kill `index` and `recut` at random moments, in children of one process that has loaded everything.

    python -m tests.search.killing WORK KILLS URI...

Prints one line of JSON. URIs: a place for the index that is killed, one for its copy, one for a fresh one.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matryoshka2d.errors import UserError
from matryoshka2d.search import building
from matryoshka2d.search.recutting import recut
from matryoshka2d.search.store import Funnel
from matryoshka2d.search.stores import open_store, store_of
from tests.search.fakes import FakeEngine, documents, unit

ROWS, BLOCK, DIMS = 300, 40, 48


def child(work: Callable[[], object], kill_after: float | None = None) -> float:
    """Run in a child, maybe killed after so many seconds; return how long it lived, raise if it failed."""
    start = time.perf_counter()
    number = os.fork()
    if number == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(number, signal.SIGKILL)
    _, status = os.waitpid(number, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise AssertionError("the child failed")
    return time.perf_counter() - start


def make(source: Path, uri: str) -> None:
    building.BLOCK = BLOCK
    building.index_documents(FakeEngine(), source, uri, prefix=16)


def check(uri: str, expected: dict[str, Any]) -> None:
    """See in a child that no row is lost or twice, and that what is found is that of a fresh index."""
    store = open_store(uri)
    rows = [one.id for block, _ in store.everything() for one in block]
    assert sorted(rows) == sorted(one.id for one in documents(ROWS)), len(rows)
    assert len(store) == ROWS
    assert found(store) == expected


def found(store: Any) -> dict[str, Any]:
    dims, prefix = store.meta.size.dims, store.meta.prefix
    queries = unit(5, dims, 3)
    return {
        "exact": store.exact(queries, 5)[0],
        "funnel": store.search(queries, Funnel(5, 100, 100, prefix)).ids,
    }


def written(path: Path, uri: str) -> Callable[[], None]:
    return lambda: path.write_text(json.dumps(found(open_store(uri)))) and None


def forget(uri: str) -> None:
    kind, address = store_of(uri)
    if kind.exists(address):
        kind.open(address).remove()
    assert not kind.exists(address)


def opens(uri: str) -> None:
    """See that a killed index opens, or says in one line that it is not there or not finished."""
    try:
        store = open_store(uri)
        store.search(unit(1, store.meta.size.dims), Funnel(3, 9, 9, store.meta.prefix))
    except UserError as error:
        assert "there is no index" in str(error) or "not finished" in str(error), error


def main(work: Path, kills: int, killed: str, copy: str, fresh: str) -> None:
    rng = random.Random(0)
    source = work / "documents.jsonl"
    rows = [{"id": one.id, "text": one.text, **one.fields} for one in documents(ROWS)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # What children would load, each for itself.
    for name in ("faiss", "psycopg", "pgvector.psycopg", "qdrant_edge", "tqdm.auto"):
        importlib.import_module(name)
    FakeEngine().embed([one.text for one in documents(ROWS)], "3x48")
    building.documents(source)
    child(lambda: make(source, fresh))
    child(lambda: forget(fresh))
    taken = child(lambda: make(source, fresh))
    child(written(work / "fresh.json", fresh))
    whole = json.loads((work / "fresh.json").read_text())
    for _ in range(kills):
        child(lambda: make(source, killed), rng.uniform(0, taken))
        child(lambda: opens(killed))
        child(lambda: make(source, killed))
        child(lambda: check(killed, whole))
        child(lambda: forget(killed))
    child(lambda: make(source, killed))
    taken = child(lambda: recut(fresh, dims=24, prefix=8) and None)
    child(written(work / "narrow.json", fresh))
    narrow = json.loads((work / "narrow.json").read_text())
    for _ in range(kills):
        child(lambda: recut(killed, dims=24, prefix=8, to=copy) and None, rng.uniform(0, taken))
        child(lambda: opens(copy))
        child(lambda: recut(killed, dims=24, prefix=8, to=copy) and None)
        child(lambda: check(copy, narrow))
        child(lambda: check(killed, whole))
        child(lambda: recut(copy, prefix=12) and None, rng.uniform(0, taken))
        child(lambda: recut(copy, prefix=8) and None)
        child(lambda: check(copy, narrow))
        child(lambda: forget(copy))
    print(json.dumps({"kills": 3 * kills}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6])
