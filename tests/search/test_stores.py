"""What every store promises: the funnel of numpy, ids and fields kept, changes, another width."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from matryoshka2d.errors import UserError
from matryoshka2d.search.documents import Document
from matryoshka2d.search.meta import cut
from matryoshka2d.search.recutting import recut
from matryoshka2d.search.store import Funnel
from matryoshka2d.search.stores import open_store
from tests.search.conftest import Place, empty
from tests.search.fakes import documents, unit

DIMS, PREFIX, ROWS = 24, 8, 150


def filled(uri: str, rows: int = ROWS, dims: int = DIMS, prefix: int = PREFIX, **options: Any) -> Any:
    store = empty(uri, dims, prefix, **options)
    with store.writing():
        store.add(documents(rows), unit(rows, dims))
        store.finish()
    return store


def funnel(k: int = 5, oversample: int = 4, prefix: int = PREFIX, where: Any = None) -> Funnel:
    return Funnel(k, k * oversample, k * oversample, prefix, where)


def by_numpy(vectors: Any, query: Any, one: Funnel, allowed: Any = None) -> tuple[list[int], Any, Any]:
    """Return rows, cosines and prefix cosines of the funnel, best first."""
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    first = cut(vectors[rows], one.prefix) @ cut(query[None], one.prefix)[0]
    best = np.argsort(-first, kind="stable")[: one.candidates]
    whole = vectors[rows[best]] @ query
    order = np.argsort(-whole, kind="stable")[: one.k]
    return rows[best[order]].tolist(), whole[order], first[best[order]]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 60),
    dims=st.integers(4, 20),
    share=st.floats(0.1, 1),
    k=st.integers(1, 12),
    oversample=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_without_a_graph_it_is_the_funnel_of_numpy(
    place: Place, rows: int, dims: int, share: float, k: int, oversample: int, seed: int
) -> None:
    prefix = max(3, round(share * dims))
    vectors, queries = unit(rows, dims, seed), unit(3, dims, seed + 1)
    for width in (prefix, dims):
        cosines = np.sort(cut(queries, width) @ cut(vectors, width).T, axis=1)
        # Of equal cosines any may come first.
        assume(rows == 1 or np.diff(cosines, axis=1).min() > 1e-6)
    store = empty(place(), dims, prefix, graph=False)
    with store.writing():
        store.add(documents(rows), vectors)
        store.finish()
    asked = Funnel(k, k * oversample, k * oversample, prefix)
    found = store.search(queries, asked)
    ids, cosines = store.exact(queries, k)
    for number, query in enumerate(queries):
        expected, whole, first = by_numpy(vectors, query, asked)
        assert found.ids[number] == [f"d{row}" for row in expected]
        np.testing.assert_allclose(found.scores[number], whole, atol=1e-5)
        np.testing.assert_allclose(found.first_scores[number], first, atol=1e-5)
        assert ids[number] == [f"d{row}" for row in np.argsort(-(vectors @ query), kind="stable")[:k]]
        assert len(cosines[number]) == min(k, rows)
    store.remove()


@pytest.mark.parametrize("codes", ["float", "half", "int8", "bit"])
def test_every_code_finds_what_is_nearest_when_enough_candidates_are_rescored(
    place: Place, codes: str
) -> None:
    uri = place()
    if codes == "int8" and uri.startswith("postgresql"):
        with pytest.raises(UserError, match="no index over int8"):
            empty(uri, DIMS, PREFIX, codes)
        return
    store = filled(uri, codes=codes)
    queries = unit(4, DIMS, seed=7)
    found = store.search(queries, funnel(k=5, oversample=30))
    assert found.ids == store.exact(queries, 5)[0]
    assert all(len(row) == 5 for row in found.ids)
    assert all(np.abs(scores).max() <= 1.001 for scores in found.first_scores)
    assert store.bytes()["first stage"] > 0


def test_as_many_candidates_come_as_are_asked_for(place: Place) -> None:
    store = filled(place())
    ids, scores = store.candidates(unit(2, DIMS, seed=3), funnel(k=10, oversample=12))
    assert [len(row) for row in ids] == [120, 120]
    assert all((np.diff(row) <= 1e-6).all() for row in scores)


def test_candidates_rescored_by_hand_are_the_search(place: Place) -> None:
    store = filled(place())
    queries = unit(3, DIMS, seed=3)
    ids, _ = store.candidates(queries, funnel())
    by_hand, scores, _ = store.rescore(queries, ids, 5)
    found = store.search(queries, funnel())
    assert by_hand == found.ids
    np.testing.assert_allclose(scores, found.scores, atol=1e-5)


@pytest.mark.parametrize(
    "where",
    [{"lang": "de"}, {"lang": ["de", "en"], "year": 2003}, {"open": True}, {"year": "2001"}, {"lang": "x"}],
)
def test_a_filter_leaves_the_funnel_of_what_passes_it(place: Place, where: dict[str, Any]) -> None:
    store, vectors = filled(place()), unit(ROWS, DIMS)
    wanted = {name: value if isinstance(value, list) else [value] for name, value in where.items()}
    allowed = [
        all(str(one.fields[name]) in map(str, values) for name, values in wanted.items())
        for one in documents(ROWS)
    ]
    for query in unit(3, DIMS, seed=5):
        expected, _, _ = by_numpy(vectors, query, funnel(oversample=40), np.array(allowed))
        found = store.search(query[None], funnel(oversample=40, where=where))
        assert found.ids[0] == [f"d{row}" for row in expected]
        nearest = [row for row in np.argsort(-(vectors @ query), kind="stable") if allowed[row]][:5]
        assert store.exact(query[None], 5, where)[0][0] == [f"d{row}" for row in nearest]


def test_documents_and_vectors_come_back_in_order(place: Place) -> None:
    uri = place()
    filled(uri).close()
    store = open_store(uri)
    assert len(store) == ROWS
    found, vectors = zip(*store.everything(block=40), strict=True)
    rows = [int(one.id[1:]) for block in found for one in block]
    assert sorted(rows) == list(range(ROWS))
    assert [one for block in found for one in block] == [documents(ROWS)[row] for row in rows]
    np.testing.assert_allclose(np.concatenate(vectors), unit(ROWS, DIMS)[rows], atol=1e-6)
    np.testing.assert_allclose(store.vectors(["d7", "d2"]), unit(ROWS, DIMS)[[7, 2]], atol=1e-6)
    assert store.documents(["d3", "nobody"]) == {"d3": documents(ROWS)[3]}
    assert store.digests(["d3", "nobody"]) == {"d3": documents(ROWS)[3].digest}


def test_deleted_replaced_and_added_documents_are_what_is_found(place: Place) -> None:
    store, vectors = filled(place()), unit(ROWS, DIMS)
    more = unit(40, DIMS, seed=8)
    gone = [f"d{row}" for row in range(0, ROWS, 4)]
    changed = [Document(f"d{row}", "changed", {"lang": "fr"}) for row in (1, 2, 3)]
    with store.writing():
        assert store.delete([*gone, "nobody"]) == len(gone)
        store.add([Document(f"e{row}", "new") for row in range(37)] + changed, more)
        store.finish()
    expected = {f"d{row}": vectors[row] for row in range(ROWS) if f"d{row}" not in gone}
    expected |= {f"e{row}": more[row] for row in range(37)}
    expected |= {one.id: more[37 + row] for row, one in enumerate(changed)}
    assert len(store) == len(expected)
    names, matrix = list(expected), np.stack(list(expected.values()))
    for query in unit(4, DIMS, seed=11):
        nearest = [names[row] for row in np.argsort(-(matrix @ query), kind="stable")[:5]]
        assert store.exact(query[None], 5)[0][0] == nearest
        assert store.search(query[None], funnel(oversample=len(names))).ids[0] == nearest
    assert store.documents(["d2"])["d2"] == changed[1]


def test_deleting_everything_leaves_an_index_that_finds_nothing(place: Place) -> None:
    store = filled(place(), rows=20)
    with store.writing():
        assert store.delete([one.id for one in documents(20)]) == 20
    assert len(store) == 0
    found = store.search(unit(2, DIMS), funnel())
    assert found.ids == [[], []]
    assert store.exact(unit(2, DIMS), 3)[0] == [[], []]
    with store.writing():
        store.add(documents(20), unit(20, DIMS))
        store.finish()
    assert store.search(unit(20, DIMS)[4:5], funnel()).ids[0][0] == "d4"


@pytest.mark.parametrize(("dims", "prefix"), [(None, 16), (12, 4), (12, None)])
@pytest.mark.parametrize("beside", [False, True])
def test_recut_is_an_index_made_anew(
    place: Place, dims: int | None, prefix: int | None, beside: bool
) -> None:
    uri, other = place(), place()
    filled(uri).close()
    meta = recut(uri, dims=dims, prefix=prefix, to=other if beside else None)
    recut_one = open_store(other if beside else uri)
    assert recut_one.meta == meta
    wide = dims or DIMS
    fresh = empty(place(), wide, meta.prefix)
    with fresh.writing():
        fresh.add(documents(ROWS), cut(unit(ROWS, DIMS), wide))
        fresh.finish()
    queries = unit(6, wide, seed=2)
    asked = funnel(prefix=meta.prefix)
    assert recut_one.search(queries, asked).ids == fresh.search(queries, asked).ids
    assert recut_one.exact(queries, 5)[0] == fresh.exact(queries, 5)[0]
    assert len(recut_one) == ROWS
    if beside:
        assert open_store(uri).meta.size.dims == DIMS


def test_a_trial_searches_another_prefix_and_leaves_nothing(place: Place) -> None:
    store = filled(place())
    before = store.bytes()
    queries = unit(4, DIMS, seed=2)
    with store.trial(12) as tried:
        assert tried.meta.prefix == 12
        found = tried.search(queries, funnel(prefix=12, oversample=8))
    assert found.ids == [
        [f"d{row}" for row in by_numpy(unit(ROWS, DIMS), query, funnel(prefix=12, oversample=8))[0]]
        for query in queries
    ]
    assert store.meta.prefix == PREFIX
    assert store.bytes() == before


def test_two_writers_are_one_too_many(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matryoshka2d.search.pgvector_store._PATIENCE", 0.1)
    uri = place()
    store = filled(uri)
    other = open_store(uri)
    with store.writing():
        with pytest.raises(UserError, match="another process is writing"), other.writing():
            pass
        # Readers are not in the way.
        assert other.search(unit(1, DIMS), funnel()).ids[0][0] == "d0"
    with other.writing():
        assert other.delete(["d0"]) == 1
    assert store.search(unit(1, DIMS), funnel()).ids[0][0] != "d0"


def test_an_index_of_another_record_is_not_touched(place: Place) -> None:
    uri = place()
    filled(uri).close()
    with pytest.raises(UserError, match="holds another index"):
        empty(uri, DIMS, PREFIX + 1)
    assert len(open_store(uri)) == ROWS


def test_an_address_without_an_index_is_one_line(place: Place) -> None:
    with pytest.raises(UserError, match="there is no index"):
        open_store(place())


def test_searches_go_on_while_documents_come_and_go(place: Place) -> None:
    store = filled(place())
    queries, known = unit(2, DIMS, seed=3), {one.id for one in documents(2 * ROWS)}
    failed: list[BaseException] = []
    done = threading.Event()

    def search() -> None:
        try:
            while not done.is_set():
                for row in store.search(queries, funnel()).ids:
                    assert len(set(row)) == len(row) == 5
                    assert set(row) <= known
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        with store.writing():
            for start in range(ROWS, 2 * ROWS, 30):
                store.add(documents(2 * ROWS)[start : start + 30], unit(30, DIMS, seed=start))
                store.finish()
                store.delete([f"d{row}" for row in range(start - ROWS, start - ROWS + 25)])
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failed, failed
    assert len(store) == 2 * ROWS - 125
