"""Searches indexes with other frameworks' vector stores: run in their own environment by test_frameworks.py.

    python other_frameworks.py FILE

FILE is JSON: where the indexes are, text → vector for all texts that are embedded, the query. What is printed
last is one line of JSON: case → texts and fields of what was found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

K = 3
Found = list[tuple[str, Any]]


def embeddings(given: Any) -> Any:
    """Return LangChain embeddings that know the vectors of some texts."""
    from langchain_core.embeddings import Embeddings

    class Known(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            # LangChain's class for Qdrant embeds a text of its own, to see how wide the vectors are.
            one = next(iter(given["vectors"].values()))
            return [given["vectors"].get(text, [0.0] * len(one)) for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return given["vectors"][text]

    return Known()


def shown(documents: Any) -> Found:
    return [(one.page_content, one.metadata) for one in documents]


def psycopg_address(server: str) -> str:
    return server.replace("postgresql://", "postgresql+psycopg://", 1)


def langchain_postgresql(given: Any) -> Found:
    """Read the table, and add a document to it."""
    from langchain_postgres import PGEngine, PGVectorStore

    store = PGVectorStore.create_sync(
        engine=PGEngine.from_connection_string(psycopg_address(given["server"])),
        table_name=given["table"],
        embedding_service=embeddings(given),
        id_column="id",
        content_column="text",
        embedding_column="embedding",
        metadata_json_column="fields",
        metadata_columns=[],
    )
    found = shown(store.similarity_search(given["query"], k=K))
    store.add_texts([given["added"]], ids=["added"], metadatas=[{"lang": "en"}])
    return found


def langchain_qdrant(given: Any) -> Found:
    """Read the collection."""
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    store = QdrantVectorStore(
        client=QdrantClient(path=given["qdrant"]),
        collection_name="docs",
        embedding=embeddings(given),
        vector_name="full",
        content_payload_key="text",
        metadata_payload_key="fields",
    )
    found = shown(store.similarity_search(given["query"], k=K))
    store.client.close()
    return found


def langchain_faiss(given: Any) -> Found:
    """Read the native index; its rows are those of the file."""
    import faiss
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS
    from langchain_core.documents import Document

    rows = {
        one["id"]: Document(page_content=one["text"], metadata={"lang": one["lang"]}) for one in given["rows"]
    }
    store = FAISS(
        embedding_function=embeddings(given),
        index=faiss.read_index(given["faiss"]),
        docstore=InMemoryDocstore(rows),
        index_to_docstore_id=dict(enumerate(rows)),
    )
    return shown(store.similarity_search(given["query"], k=K))


def asked(given: Any) -> Any:
    from llama_index.core.vector_stores import VectorStoreQuery

    return VectorStoreQuery(query_embedding=given["vectors"][given["query"]], similarity_top_k=K)


def nodes(found: Any) -> Found:
    return [(one.get_content(), one.metadata) for one in found.nodes]


def llamaindex_postgresql(given: Any) -> Found:
    """Read the table through the view that the page shows."""
    from llama_index.vector_stores.postgres import PGVectorStore
    from sqlalchemy import create_engine, text
    from sqlalchemy.ext.asyncio import create_async_engine

    server = psycopg_address(given["server"])
    engine = create_engine(server)
    with engine.begin() as connection:
        connection.execute(text(given["view"]))
    store = PGVectorStore(
        table_name=f"{given['table']}_llama",
        embed_dim=given["dims"],
        perform_setup=False,
        engine=engine,
        async_engine=create_async_engine(server),
        schema_name="public",
    )
    return nodes(store.query(asked(given)))


def llamaindex_qdrant(given: Any) -> Found:
    """Read the collection."""
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    client = QdrantClient(path=given["qdrant"])
    found = QdrantVectorStore("docs", client=client, dense_vector_name="full", text_key="text").query(
        asked(given)
    )
    client.close()
    return nodes(found)


def llamaindex_faiss(given: Any) -> Found:
    """Read the native index; its rows are those of the file."""
    import faiss
    from llama_index.vector_stores.faiss import FaissVectorStore

    found = FaissVectorStore(faiss_index=faiss.read_index(given["faiss"])).query(asked(given))
    rows = [given["rows"][int(row)] for row in found.ids]
    return [(row["text"], {"lang": row["lang"]}) for row in rows]


CASES = {
    case.__name__: case
    for case in (
        # It adds a document: the others come first.
        llamaindex_postgresql,
        llamaindex_qdrant,
        llamaindex_faiss,
        langchain_qdrant,
        langchain_faiss,
        langchain_postgresql,
    )
}

if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps({name: case(given) for name, case in CASES.items()}))
