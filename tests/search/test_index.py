"""An index with its model: documents from files, going on, refusing other models, shallow queries, faults."""

from __future__ import annotations

import csv
import json
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from matryoshka2d.errors import UserError
from matryoshka2d.search import Document, delete_documents, index_documents, open_index, recut
from matryoshka2d.search.documents import documents as read_documents
from matryoshka2d.search.stores import open_store
from tests.search.conftest import Place, empty, running_server
from tests.search.fakes import FakeEngine, documents

COUNT = 60
Source = Callable[..., Path]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"faiss:{tmp_path / 'index'}"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Return a function that writes documents into a file."""

    def write(rows: list[Document] | None = None, name: str = "docs.jsonl") -> Path:
        path = tmp_path / name
        chosen = documents(COUNT) if rows is None else rows
        path.write_text(
            "".join(json.dumps({"id": one.id, "text": one.text, **one.fields}) + "\n" for one in chosen)
        )
        return path

    return write


# --- documents ------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_documents(source: Source, tmp_path: Path) -> None:
    expected = documents(10)
    rows = [{"id": one.id, "text": one.text, **one.fields} for one in expected]
    (tmp_path / "beir").mkdir()
    (tmp_path / "beir" / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"_id": row["id"], **{k: v for k, v in row.items() if k != "id"}}) + "\n"
            for row in rows
        )
    )
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "docs.parquet")
    for path in (source(expected), tmp_path / "beir", tmp_path / "docs.parquet"):
        assert list(read_documents(path).documents()) == expected
    with (tmp_path / "docs.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(rows)
    found = list(read_documents(tmp_path / "docs.csv").documents())
    assert [(one.id, one.text) for one in found] == [(one.id, one.text) for one in expected]
    (tmp_path / "docs.txt").write_text("one\n\ntwo\n")
    assert list(read_documents(tmp_path / "docs.txt").documents()) == [
        Document("0", "one"),
        Document("1", "two"),
    ]


def test_a_title_stands_before_the_text_and_is_a_field(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text(
        json.dumps({"_id": 7, "title": "A title", "text": "A text.", "n": {"a": [1, None]}}) + "\n"
    )
    (one,) = read_documents(path).documents()
    assert one == Document("7", "A title A text.", {"title": "A title", "n": {"a": [1, None]}})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": "a", "text": "x"}', '{"id": "a", "text": "y"}'], "line 2: the id 'a' is there twice"),
        (['{"id": "a", "text": " "}'], "expected a text that is not empty"),
        (['{"id": null, "text": "x"}'], "expected a text or a whole number"),
        ([], "is empty"),
    ],
)
def test_documents_that_cannot_be_meant_are_one_line(tmp_path: Path, lines: list[str], message: str) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        read_documents(path)


# --- building -------------------------------------------------------------------------------------------


def test_hits_carry_ids_scores_texts_fields_and_times(place: Place, source: Source) -> None:
    uri, engine = place(), FakeEngine()
    built = index_documents(engine, source(), uri, prefix=16)
    assert (built.documents, built.added, built.found) == (COUNT, COUNT, 0)
    with open_index(uri, engine) as index:
        first, second = index.search([documents(COUNT)[4].text, "red house"], 3, oversample=20)
        exact = index.search(documents(COUNT)[4].text, 3, exact=True)
        filtered = index.search("red house", 3, where={"lang": "de"})
    best = first.hits[0]
    assert (best.id, best.text, best.fields) == ("d4", documents(COUNT)[4].text, documents(COUNT)[4].fields)
    assert best.score > 0.9 and best.first_score is not None
    assert len(second.hits) == 3 and not second.approximate
    assert {"embed", "documents"} < set(first.milliseconds)
    assert [hit.id for hit in exact[0].hits] == [hit.id for hit in first.hits]
    assert exact[0].hits[0].first_score is None and "exact" in exact[0].milliseconds
    assert all(hit.fields["lang"] == "de" for hit in filtered[0].hits)


def test_run_again_it_embeds_only_what_is_new_or_changed(place: Place, source: Source) -> None:
    uri = place()
    index_documents(FakeEngine(), source(), uri, prefix=16)
    again = FakeEngine()
    built = index_documents(again, source(), uri, prefix=16)
    assert (built.documents, built.added, built.found) == (COUNT, 0, COUNT)
    assert not any(text in again.texts for text in (one.text for one in documents(COUNT)))
    rows = documents(COUNT + 2)
    rows[5] = Document("d5", "something else", {"lang": "fr"})
    rows[6] = Document("d6", rows[6].text, {"lang": "fr"})
    assert index_documents(again, source(rows), uri, prefix=16).added == 4
    with open_index(uri, again) as index:
        assert len(index) == COUNT + 2
        assert index.search("something else", 1)[0].hits[0].id == "d5"
        assert index.search(rows[61].text, 1, exact=True)[0].hits[0].id == "d61"


def test_ids_of_a_file_name_what_is_deleted(place: Place, source: Source, tmp_path: Path) -> None:
    uri = place()
    index_documents(FakeEngine(), source(), uri, prefix=16)
    (tmp_path / "ids.txt").write_text("d1\nd2\nnobody\n")
    assert delete_documents(tmp_path / "ids.txt", uri) == (2, COUNT - 2)
    assert delete_documents(source(documents(4), "four.jsonl"), uri) == (2, COUNT - 4)
    with open_index(uri, FakeEngine()) as index:
        assert index.store.documents(["d0", "d3"]) == {}


def test_documents_are_added_and_deleted_in_python(uri: str, source: Source) -> None:
    engine = FakeEngine()
    index_documents(engine, source(), uri, prefix=16)
    with open_index(uri, engine) as index:
        index.add([Document("new", "a very new bird", {"lang": "en"})])
        index.add([Document("vector", "by vector")], np.full((1, 48), 3.0))
        assert index.search("a very new bird", 1)[0].hits[0].id == "new"
        assert index.search(np.ones(48), 1)[0].hits[0].id == "vector"
        assert index.delete(["new", "vector", "nobody"]) == 2
        assert len(index) == COUNT
        with pytest.raises(UserError, match="comes twice"):
            index.add([Document("a", "x"), Document("a", "y")])


def test_rows_without_ids_replace_nothing(uri: str, tmp_path: Path) -> None:
    for name, text in (("a.txt", "one\ntwo\n"), ("b.txt", "three\n")):
        (tmp_path / name).write_text(text)
    index_documents(FakeEngine(), tmp_path / "a.txt", uri)
    assert index_documents(FakeEngine(), tmp_path / "a.txt", uri).added == 0
    with pytest.raises(UserError, match=r"b\.txt has no ids, and row 0 is in the index already"):
        index_documents(FakeEngine(), tmp_path / "b.txt", uri)


def test_any_user_of_faiss_can_open_it(uri: str, source: Source) -> None:
    import faiss

    engine = FakeEngine()
    index_documents(engine, source(), uri, prefix=16)
    native = faiss.read_index(str(Path(uri.removeprefix("faiss:")) / "index.faiss"))
    queries = engine.embed(["red house", "a cold river"], prompt="find : ")
    scores, rows = native.search(queries, 4)
    with open_index(uri, engine) as index:
        answers = index.search(["red house", "a cold river"], 4)
    assert [[hit.id for hit in answer.hits] for answer in answers] == [
        [f"d{row}" for row in one] for one in rows
    ]
    np.testing.assert_allclose([[hit.score for hit in one.hits] for one in answers], scores, atol=1e-6)


def test_each_side_has_its_own_prompt(uri: str, source: Source) -> None:
    engine = FakeEngine()
    index_documents(engine, source(), uri, document_prompt="passage : ")
    index = open_index(uri, engine)
    assert (index.meta.document_prompt, index.meta.query_prompt) == ("passage : ", "find : ")


# --- the model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            FakeEngine(seed=1),
            "gives other vectors than the index holds .*: open the index with its own model, m",
        ),
        (FakeEngine(turn=True), "the same space, rotated"),
        (FakeEngine(width=32), "this model has 3 layers and 32 dims"),
        (FakeEngine(depth=2), "this model has 2 layers and 48 dims"),
    ],
)
def test_a_wrong_model_is_refused_with_the_reason(
    place: Place, source: Source, other: FakeEngine, reason: str
) -> None:
    uri = place()
    index_documents(FakeEngine(), source(), uri, model="m", prefix=16)
    with pytest.raises(UserError, match=reason):
        open_index(uri, other)
    with pytest.raises(UserError):
        index_documents(
            other, source(documents(80)), uri, prefix=16, size="2x32" if other.width < 48 else None
        )
    assert len(open_store(uri)) == COUNT


def test_shallow_queries_meet_deep_documents_in_one_space_alone(uri: str, source: Source) -> None:
    near, far = FakeEngine(spread=0.2), FakeEngine(spread=5.0)
    index_documents(near, source(), uri, prefix=16)
    with open_index(uri, near) as index:
        (answer,) = index.search(documents(COUNT)[4].text, 3, query_size="1x48")
        assert answer.approximate and answer.hits[0].id == "d4"
        for size, message in (("1x24", "both need the same dims, as in 1x48"), ("4x48", "are deeper than")):
            with pytest.raises(UserError, match=message):
                index.search("x", query_size=size)
    other = f"{uri}-far"
    index_documents(far, source(), other, prefix=16)
    with (
        open_index(other, far) as index,
        pytest.raises(UserError, match="do not lie in the space of this index"),
    ):
        index.search("red", query_size="1x48")


def test_vectors_need_no_model_and_must_fit(uri: str, source: Source) -> None:
    index_documents(FakeEngine(), source(), uri, prefix=16)
    with open_index(uri) as index:
        assert len(index.search(np.ones((2, 48)), 4)) == 2
        with pytest.raises(UserError, match="queries of 47 dims cannot meet documents of 48"):
            index.search(np.ones((2, 47)))
        with pytest.raises(UserError, match="NaN"):
            index.search(np.full((1, 48), np.nan))
        with pytest.raises(UserError, match="does not name its model"):
            index.search("red")
        with pytest.raises(UserError, match="k is 0"):
            index.search(np.ones(48), 0)


def test_another_prefix_is_tried_without_its_graph(uri: str, source: Source) -> None:
    engine = FakeEngine()
    index_documents(engine, source(), uri, prefix=8)
    with open_index(uri, engine) as index:
        tried = index.search("red house", 5, prefix=32)[0].hits
        assert recut(uri, prefix=32).prefix == 32
        assert [hit.id for hit in index.search("red house", 5)[0].hits] == [hit.id for hit in tried]


def test_recut_moves_an_index_to_another_store(
    uri: str, source: Source, request: Any, tmp_path: Path
) -> None:
    from tests.search.conftest import place_in

    engine = FakeEngine()
    index_documents(engine, source(), uri, prefix=16)
    other = place_in("qdrant", request, tmp_path)()
    recut(uri, to=other)
    with open_index(uri, engine) as before, open_index(other, engine) as after:
        asked = [one.text for one in documents(6)]
        assert [[hit.id for hit in one.hits] for one in after.search(asked, exact=True)] == [
            [hit.id for hit in one.hits] for one in before.search(asked, exact=True)
        ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to recut"),
        ({"dims": 49}, "49 dims cannot be cut out of vectors of 48"),
        ({"prefix": 64}, "prefix 64 does not fit"),
        ({"codes": "byte"}, "no codes are called 'byte'"),
    ],
)
def test_a_cut_that_cannot_be_is_one_line(uri: str, source: Source, options: Any, message: str) -> None:
    index_documents(FakeEngine(), source(), uri, prefix=16)
    with pytest.raises(UserError, match=message):
        recut(uri, **options)
    with pytest.raises(UserError, match="is the index itself"):
        recut(uri, dims=24, to=uri)


# --- faults ---------------------------------------------------------------------------------------------


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [4_000, 30_000, 70_000, 100_000])
def test_a_full_disk_is_one_line_and_the_run_goes_on(uri: str, source: Source, size: int) -> None:
    rows = documents(400)
    index_documents(FakeEngine(), source(), uri, prefix=16)
    more = source(rows)
    with largest_file(size), pytest.raises(UserError, match="no room on the disk"):
        index_documents(FakeEngine(), more, uri, prefix=16)
    with open_index(uri, FakeEngine()) as index:
        assert index.search(rows[3].text, 1)[0].hits[0].id == "d3"
    index_documents(FakeEngine(), more, uri, prefix=16)
    with open_index(uri, FakeEngine()) as index:
        assert len(index) == 400
        assert index.search(rows[390].text, 1, exact=True)[0].hits[0].id == "d390"


def test_a_database_that_is_not_there_is_one_line() -> None:
    with pytest.raises(UserError, match=r"PostgreSQL says: connection .*is the server running"):
        open_store("postgresql://localhost:1/nowhere?table=docs")
    with pytest.raises(UserError, match="Qdrant at docs says"):
        open_store("qdrant:http://localhost:1/docs")


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_database_that_goes_is_one_line_and_the_run_goes_on(
    place: Place, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    uri, engine = place(), FakeEngine()
    server = uri.partition("?table=")[0].partition("&table=")[0]

    def cut_off(*_: object) -> None:
        with psycopg.connect(server, autocommit=True) as other:
            other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where pid <> pg_backend_pid() and backend_type = 'client backend'"
            )

    monkeypatch.setattr("matryoshka2d.search.building.BLOCK", 20)
    whole = FakeEngine.embed

    def embed(self: FakeEngine, texts: Any, *arguments: Any, **options: Any) -> Any:
        if texts[0] == documents(COUNT)[20].text:
            cut_off()
        return whole(self, texts, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "embed", embed)
        with pytest.raises(UserError, match=r"PostgreSQL says: .*Run the command again"):
            index_documents(engine, source(), uri, prefix=16)
    built = index_documents(engine, source(), uri, prefix=16)
    assert (built.documents, built.added) == (COUNT, COUNT - 20)
    with open_index(uri, engine) as index:
        before = index.search("red house", 3)[0].hits
        cut_off()
        with pytest.raises(UserError, match="PostgreSQL says"):
            index.search("red house", 3)
        assert index.search("red house", 3)[0].hits == before


@pytest.mark.parametrize("place", ["qdrant"], indirect=True)
def test_a_full_disk_of_qdrants_engine_is_one_line_and_the_run_goes_on(place: Place, source: Source) -> None:
    uri = place()
    with largest_file(1_000_000), pytest.raises(UserError, match=r"\AQdrant at [^\n]* says: [^\n]+\Z"):
        index_documents(FakeEngine(), source(), uri, prefix=16)
    assert index_documents(FakeEngine(), source(), uri, prefix=16).added == COUNT


def test_a_full_disk_of_the_server_is_one_line_and_the_run_goes_on(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matryoshka2d.search.building.BLOCK", 500)
    wide, count = FakeEngine(width=2_000), 3_000
    more = source(documents(count))
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        # A server has the limits of what starts it: no file larger than one of its log.
        with (
            largest_file(17 << 20),
            running_server(Path(folder) / "data") as uri,
            pytest.raises(UserError, match=r"PostgreSQL says: .*make room on the server's disk"),
        ):
            index_documents(wide, more, uri, prefix=16)
        with running_server(Path(folder) / "data") as uri:
            there = len(open_store(uri))
            assert 0 < there < count and there % 500 == 0
            built = index_documents(wide, more, uri, prefix=16)
            assert (built.documents, built.added) == (count, count - there)


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.csv", "docs.txt", "docs.parquet", "beir"])
def test_an_empty_corpus_is_one_line_and_leaves_nothing(place: Place, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "beir":
        path.mkdir()
        (path / "corpus.jsonl").touch()
    elif name == "docs.parquet":
        parquet.write_table(pyarrow.table({"id": [], "text": []}), path)
    else:
        path.write_text("id,text\n" if name == "docs.csv" else "")
    uri = place()
    with pytest.raises(UserError, match="is empty"):
        index_documents(FakeEngine(), path, uri, prefix=16)
    with pytest.raises(UserError, match="there is no index"):
        open_store(uri)


@pytest.mark.parametrize("place", ["qdrant"], indirect=True)
def test_a_width_that_qdrant_cannot_keep_is_one_line(place: Place) -> None:
    uri = place()
    with pytest.raises(UserError, match="at most 65536 dims, not 65537"):
        empty(uri, 65_537, 16)
    assert not Path(uri.removeprefix("qdrant:")).exists()


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_width_that_postgresql_cannot_index_is_one_line(place: Place, source: Source) -> None:
    wide = FakeEngine(width=2_500)
    for codes, prefix, message in (
        ("float", 2_100, "indexes at most 2000 dims as float, not 2100"),
        ("int8", 100, "no index over int8"),
    ):
        with pytest.raises(UserError, match=message):
            index_documents(wide, source(), place(), prefix=prefix, codes=codes)
    assert index_documents(wide, source(), place(), prefix=2_100, codes="half").documents == COUNT


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_postgresql_uses_the_index_on_the_prefix(place: Place, source: Source) -> None:
    uri = place()
    index_documents(FakeEngine(), source(), uri, prefix=16, codes="half")
    store = open_store(uri)
    from matryoshka2d.search.store import Funnel

    shown = store.plan(np.ones(48, dtype=np.float32), Funnel(5, 50, 50, 16))  # type: ignore[attr-defined]
    assert f"Index Scan using {store.table}_prefix" in shown  # type: ignore[attr-defined]


def test_a_table_or_a_folder_of_something_else_is_not_touched(
    source: Source, tmp_path: Path, request: Any
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "precious").write_text("keep me")
    for kind in ("faiss", "qdrant"):
        with pytest.raises(UserError, match="exists already"):
            index_documents(FakeEngine(), source(), f"{kind}:{tmp_path / 'used'}")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["precious"]


@pytest.mark.parametrize("uri", ["nowhere:x", "x", "faiss:", "qdrant:http://h:1"])
def test_an_address_that_is_none_is_one_line(uri: str) -> None:
    with pytest.raises(UserError, match=r"no address of an index|names no collection"):
        open_index(uri)
