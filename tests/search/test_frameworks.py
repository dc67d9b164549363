"""LangChain's and LlamaIndex's vector stores work on the tables that `index` writes: nobody is locked in."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from matryoshka2d.search import index_documents, open_index
from matryoshka2d.search.meta import Meta
from matryoshka2d.search.qdrant_points import ServerPoints
from matryoshka2d.search.qdrant_store import QdrantStore
from matryoshka2d.search.stores import open_store
from matryoshka2d.size import Size
from tests.search.fakes import FakeEngine, documents

CLIENTS = os.environ.get("MATRYOSHKA2D_CLIENTS")
"""The Python of an environment with what frameworks.txt lists."""
CASES = [
    f"{framework}_{store}"
    for framework in ("langchain", "llamaindex")
    for store in ("faiss", "postgresql", "qdrant")
]
QUERY, ADDED, DIMS, ROWS = "red house", "a red house for two", 48, 40
PAGE = Path(__file__).parents[2] / "docs" / "search.md"


@pytest.fixture(scope="module")
def found(server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what every framework finds in the three stores, what we find, and the address of the table."""
    if CLIENTS is None:
        pytest.skip("MATRYOSHKA2D_CLIENTS names no Python with the libraries of tests/search/frameworks.txt")
    folder, engine = tmp_path_factory.mktemp("frameworks"), FakeEngine()
    rows = [{"id": one.id, "text": one.text, **one.fields} for one in documents(ROWS)]
    source = folder / "docs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    joint = "&" if "?" in server else "?"
    table = f"{server}{joint}table=frameworks"
    for uri in (f"faiss:{folder / 'index'}", table):
        index_documents(engine, source, uri, prefix=16)
    # The client's own imitation of a server: what it keeps in a folder, the frameworks open.
    client = QdrantClient(path=str(folder / "qdrant"))
    points = ServerPoints(client, "docs")
    points.create(Meta("", Size(3, DIMS), 16))
    QdrantStore(points, Meta.from_json(points.record() or "")).add(
        documents(ROWS), engine.embed([row["text"] for row in rows])
    )
    client.close()
    (view,) = re.findall(r"```sql\n(create view .*?);\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    given = {
        "server": open_store(table).server,  # type: ignore[attr-defined]
        "table": "frameworks",
        "view": view.replace("data_docs_llama", "data_frameworks_llama").replace(
            "from docs", "from frameworks"
        ),
        "faiss": str(folder / "index" / "index.faiss"),
        "qdrant": str(folder / "qdrant"),
        "dims": DIMS,
        "rows": rows,
        "query": QUERY,
        "added": ADDED,
        "vectors": {
            QUERY: engine.embed([QUERY], prompt="find : ")[0].tolist(),
            ADDED: engine.embed([ADDED])[0].tolist(),
        },
    }
    (folder / "given.json").write_text(json.dumps(given))
    with open_index(table, engine) as index:
        hits = index.search(QUERY, 3, exact=True)[0].hits
    script = Path(__file__).with_name("other_frameworks.py")
    done = subprocess.run(
        [CLIENTS, str(script), str(folder / "given.json")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {"table": table, "ours": hits, **json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("case", CASES)
def test_a_framework_finds_what_exact_search_finds(found: dict[str, Any], case: str) -> None:
    assert [text for text, _ in found[case]] == [hit.text for hit in found["ours"]]
    # LlamaIndex puts what it finds in a collection elsewhere, and Faiss has no fields.
    if case in ("langchain_postgresql", "langchain_qdrant", "llamaindex_postgresql"):
        assert [fields["lang"] for _, fields in found[case]] == [hit.fields["lang"] for hit in found["ours"]]


def test_what_langchain_adds_to_a_table_is_found(found: dict[str, Any]) -> None:
    with open_index(found["table"], FakeEngine()) as index:
        (hit,) = index.search(ADDED, 1, oversample=ROWS)[0].hits
    assert (hit.id, hit.text, hit.fields) == ("added", ADDED, {"lang": "en"})
