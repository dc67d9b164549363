"""LangChain's and LlamaIndex's vector stores work on the tables that `index` writes: nobody is locked in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from matryoshka2d.search import index_documents, open_index
from matryoshka2d.search.stores import open_store
from tests.search.conftest import place_in
from tests.search.fakes import FakeEngine, documents

QUERY = "red house"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "docs.jsonl"
    rows = [{"id": one.id, "text": one.text, **one.fields} for one in documents(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(kind: str, source: Path, tmp_path: Path, request: Any) -> tuple[str, list[str]]:
    """Return an index and the ids of the three texts that are nearest to the query."""
    uri = place_in(kind, request, tmp_path)()
    index_documents(FakeEngine(), source, uri, prefix=16)
    with open_index(uri, FakeEngine()) as index:
        return uri, [hit.text for hit in index.search(QUERY, 3, exact=True)[0].hits]


def embeddings() -> Any:
    """Return an engine as LangChain's embeddings."""
    core = pytest.importorskip("langchain_core.embeddings")
    engine = FakeEngine()

    class OfEngine(core.Embeddings):  # type: ignore[name-defined, misc]
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [vector.tolist() for vector in engine.embed(texts)]

        def embed_query(self, text: str) -> list[float]:
            return [float(x) for x in engine.embed([text], prompt="find : ")[0]]

    return OfEngine()


def test_langchain_reads_and_extends_a_table(source: Path, tmp_path: Path, request: Any) -> None:
    postgres = pytest.importorskip("langchain_postgres")
    uri, expected = made("postgresql", source, tmp_path, request)
    table = open_store(uri).table  # type: ignore[attr-defined]
    server = open_store(uri).server.replace("postgresql://", "postgresql+psycopg://", 1)  # type: ignore[attr-defined]
    engine = postgres.PGEngine.from_connection_string(server)
    store = postgres.PGVectorStore.create_sync(
        engine=engine,
        table_name=table,
        embedding_service=embeddings(),
        id_column="id",
        content_column="text",
        embedding_column="embedding",
        metadata_json_column="fields",
        metadata_columns=[],
    )
    found = store.similarity_search(QUERY, k=3)
    assert [one.page_content for one in found] == expected
    assert found[0].metadata["lang"] in ("en", "de")
    store.add_texts(["a red house for two"], ids=["added"], metadatas=[{"lang": "en"}])
    with open_index(uri, FakeEngine()) as index:
        hits = index.search("a red house for two", 1, oversample=40)[0].hits
        assert [(hit.id, hit.fields) for hit in hits] == [("added", {"lang": "en"})]


def test_langchain_reads_and_extends_a_collection(source: Path, tmp_path: Path, request: Any) -> None:
    home = pytest.importorskip("langchain_qdrant")
    from qdrant_client import QdrantClient

    from matryoshka2d.search.meta import Meta
    from matryoshka2d.search.qdrant_points import ServerPoints
    from matryoshka2d.search.qdrant_store import QdrantStore
    from matryoshka2d.size import Size

    client, engine = QdrantClient(":memory:"), FakeEngine()
    points = ServerPoints(client, "docs")
    points.create(Meta("", Size(3, 48), 16))
    ours = QdrantStore(points, Meta.from_json(points.record() or ""))
    ours.add(documents(40), engine.embed([one.text for one in documents(40)]))
    store = home.QdrantVectorStore(
        client=client,
        collection_name="docs",
        embedding=embeddings(),
        vector_name="full",
        content_payload_key="text",
        metadata_payload_key="fields",
    )
    found = store.similarity_search(QUERY, k=3)
    _, expected = made("faiss", source, tmp_path, request)
    assert [one.page_content for one in found] == expected
    assert found[0].metadata["lang"] in ("en", "de")


def test_langchain_reads_the_native_index(source: Path, tmp_path: Path, request: Any) -> None:
    stores = pytest.importorskip("langchain_community.vectorstores")
    docstores = pytest.importorskip("langchain_community.docstore.in_memory")
    core = pytest.importorskip("langchain_core.documents")
    import faiss

    uri, expected = made("faiss", source, tmp_path, request)
    rows = [one for block, _ in open_store(uri).everything() for one in block]
    store = stores.FAISS(
        embedding_function=embeddings(),
        index=faiss.read_index(str(Path(uri.removeprefix("faiss:")) / "index.faiss")),
        docstore=docstores.InMemoryDocstore(
            {one.id: core.Document(page_content=one.text, metadata=one.fields) for one in rows}
        ),
        index_to_docstore_id={row: one.id for row, one in enumerate(rows)},
    )
    assert [one.page_content for one in store.similarity_search(QUERY, k=3)] == expected


def query_of_llama() -> Any:
    stores = pytest.importorskip("llama_index.core.vector_stores")
    vector = FakeEngine().embed([QUERY], prompt="find : ")[0]
    return stores.VectorStoreQuery(query_embedding=[float(x) for x in vector], similarity_top_k=3)


def test_llamaindex_reads_a_table_through_a_view(source: Path, tmp_path: Path, request: Any) -> None:
    postgres = pytest.importorskip("llama_index.vector_stores.postgres")
    import psycopg
    from sqlalchemy import create_engine
    from sqlalchemy.ext.asyncio import create_async_engine

    query = query_of_llama()
    uri, expected = made("postgresql", source, tmp_path, request)
    table = open_store(uri).table  # type: ignore[attr-defined]
    server = open_store(uri).server  # type: ignore[attr-defined]
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            f"create view data_{table}_llama as select place as id, text, "
            "json_build_object('_node_type', 'TextNode', '_node_content', "
            "json_build_object('id_', id, 'text', text, 'metadata', fields)::text) as metadata_, "
            f"id as node_id, embedding from {table}"
        )
    named = server.replace("postgresql://", "postgresql+psycopg://", 1)
    store = postgres.PGVectorStore(
        table_name=f"{table}_llama",
        embed_dim=48,
        perform_setup=False,
        engine=create_engine(named),
        async_engine=create_async_engine(named),
        schema_name="public",
    )
    found = store.query(query)
    assert [one.get_content() for one in found.nodes] == expected
    assert found.nodes[0].metadata["lang"] in ("en", "de")


def test_llamaindex_reads_the_native_index(source: Path, tmp_path: Path, request: Any) -> None:
    home = pytest.importorskip("llama_index.vector_stores.faiss")
    import faiss

    query = query_of_llama()
    uri, expected = made("faiss", source, tmp_path, request)
    rows = [one.text for block, _ in open_store(uri).everything() for one in block]
    native = faiss.read_index(str(Path(uri.removeprefix("faiss:")) / "index.faiss"))
    found = home.FaissVectorStore(faiss_index=native).query(query)
    assert [rows[int(row)] for row in found.ids] == expected


def test_llamaindex_reads_a_collection(source: Path, tmp_path: Path, request: Any) -> None:
    home = pytest.importorskip("llama_index.vector_stores.qdrant")
    from qdrant_client import QdrantClient

    from matryoshka2d.search.meta import Meta
    from matryoshka2d.search.qdrant_points import ServerPoints
    from matryoshka2d.search.qdrant_store import QdrantStore
    from matryoshka2d.size import Size

    query = query_of_llama()
    client, engine = QdrantClient(":memory:"), FakeEngine()
    points = ServerPoints(client, "docs")
    points.create(Meta("", Size(3, 48), 16))
    QdrantStore(points, Meta.from_json(points.record() or "")).add(
        documents(40), engine.embed([one.text for one in documents(40)])
    )
    store = home.QdrantVectorStore("docs", client=client, dense_vector_name="full", text_key="text")
    found = store.query(query)
    _, expected = made("faiss", source, tmp_path, request)
    assert [one.get_content() for one in found.nodes] == expected
