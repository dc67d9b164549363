"""The store and the Spark recipe that the page shows are what it says."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matryoshka2d.search.recutting import recut
from matryoshka2d.search.store import Funnel
from matryoshka2d.search.stores import STORES, open_store
from tests import tiny
from tests.search.conftest import empty
from tests.search.fakes import documents, unit

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> str:
    """Register the store of the page, and return an address in it."""
    (block,) = [
        one for one in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class MemoryStore" in one
    ]
    assert sum(bool(line.strip()) for line in block.splitlines()) <= 60
    monkeypatch.setitem(STORES, "memory", "")
    exec(compile(block, "docs/search.md", "exec"), {"__name__": "page"})
    return "memory:mine"


def test_the_store_of_the_page_is_one(memory: str) -> None:
    store = empty(memory, 24, 8)
    store.add(documents(80), unit(80, 24))
    queries = unit(3, 24, seed=4)
    found = store.search(queries, Funnel(5, 80, 80, 8))
    assert found.ids == store.exact(queries, 5)[0]
    few = store.search(queries, Funnel(5, 10, 10, 8, {"open": True}))
    assert all(int(key[1:]) % 2 == 0 for row in few.ids for key in row)
    assert store.delete(["d1", "nobody"]) == 1
    recut(memory, dims=12, to="memory:narrow")
    assert len(open_store("memory:narrow")) == 79
    assert open_store("memory:narrow").search(unit(2, 12), Funnel(3, 9, 9, 8)).ids


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("pyspark") or not shutil.which("java"), reason="no Spark here"
)
def test_the_spark_recipe_writes_the_shards_of_a_local_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matryoshka2d.inference import open_engine
    from matryoshka2d.inference.shards import encode_shards

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    model = tiny.sentence_model(tmp_path / "made", hidden_size=128)
    (tmp_path / "my-model").symlink_to(model, target_is_directory=True)
    rows = [json.dumps({"text": f"{text} {i}"}) for i, text in enumerate(tiny.TEXTS * 7)]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows) + "\n")
    engine = open_engine("my-model", "torch", "fp32", size="3x128")
    encode_shards(engine, "texts.jsonl", "whole", suffix=".npy", rows_per_shard=10)
    (block,) = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    (tmp_path / "vectors").mkdir()
    exec(compile(block, "docs/search.md", "exec"), names)
    names["spark"].stop()
    for path in sorted((tmp_path / "whole").glob("part-*")):
        assert np.array_equal(np.load(path), np.load(tmp_path / "vectors" / path.name))
        assert path.read_bytes() == (tmp_path / "vectors" / path.name).read_bytes()
