"""The calls that a Qdrant server gets, against its client's own imitation of one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from qdrant_client import QdrantClient

from matryoshka2d.errors import UserError
from matryoshka2d.search.meta import CODES, Meta
from matryoshka2d.search.qdrant_points import ServerPoints
from matryoshka2d.search.qdrant_store import QdrantStore
from matryoshka2d.search.store import Funnel
from matryoshka2d.size import Size
from tests.search.fakes import documents, unit


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    with warnings.catch_warnings():
        # The imitation compares every vector whatever the parameters.
        warnings.simplefilter("ignore")
        yield QdrantClient(":memory:")


@pytest.mark.parametrize("codes", CODES)
def test_a_collection_is_an_index(client: QdrantClient, codes: str) -> None:
    points = ServerPoints(client, "docs")
    assert points.record() is None
    meta = Meta("", Size(1, 24), 8, codes)
    points.create(meta)
    store = QdrantStore(points, Meta.from_json(points.record() or ""))
    assert store.meta == meta
    with store.writing():
        store.add(documents(60), unit(60, 24))
        store.finish()
    queries = unit(3, 24, seed=2)
    found = store.search(queries, Funnel(5, 60, 60, 8))
    assert found.ids == store.exact(queries, 5)[0]
    assert (
        store.search(queries, Funnel(5, 60, 60, 8, {"open": True})).ids
        == store.exact(queries, 5, {"open": True})[0]
    )
    assert store.delete(["d1", "nobody"]) == 1
    assert len(store) == 59
    assert store.bytes()["vectors"] == 59 * 96
    with store.trial(12) as tried:
        assert tried.search(queries, Funnel(5, 59, 59, 12)).ids == store.exact(queries, 5)[0]
    assert [one.name for one in client.get_collections().collections] == ["docs"]


def test_a_collection_of_something_else_is_not_touched(client: QdrantClient) -> None:
    client.create_collection("docs", vectors_config={})
    with pytest.raises(UserError, match="is there and is no index"):
        ServerPoints(client, "docs").record()


def test_a_server_that_goes_is_one_line_and_the_store_goes_on(
    client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = ServerPoints(client, "docs")
    points.create(Meta("", Size(1, 24), 8))
    store = QdrantStore(points, Meta.from_json(points.record() or ""))
    store.add(documents(20), unit(20, 24))
    queries, asked = unit(2, 24, seed=2), Funnel(5, 20, 20, 8)
    before = store.search(queries, asked).ids
    # A real client, and nobody at the other end.
    nobody = QdrantClient(url="http://localhost:1", check_compatibility=False)
    with monkeypatch.context() as patch:
        patch.setattr(points, "client", nobody)
        for work in (
            lambda: store.add(documents(40), unit(40, 24)),
            lambda: store.search(queries, asked),
            lambda: store.exact(queries, 5),
            lambda: store.delete(["d1"]),
            lambda: len(store),
        ):
            with pytest.raises(UserError, match=r"\AQdrant at docs says: [^\n]+\Z"):
                work()
    assert store.search(queries, asked).ids == before
    store.add(documents(40), unit(40, 24))
    assert len(store) == 40
