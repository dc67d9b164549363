"""A corpus in shards: killed and resumed, it leaves what an unbroken run leaves, byte for byte."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from matryoshka2d.errors import UserError
from matryoshka2d.inference import Engine, open_engine
from matryoshka2d.inference.shards import MANIFEST, Shards, encode_shards
from tests import tiny

ROWS = 100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.sentence_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(model: str) -> Engine:
    return open_engine(model, "torch", "fp32", size="3x16")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = random.Random(0)
    rows = [
        {"id": i, "text": " ".join(rng.choices(tiny.WORDS.split(), k=rng.randint(1, 30)))}
        for i in range(ROWS)
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".npy"])
def test_every_row_is_there_once_and_in_order(
    engine: Engine, source: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / "out"
    assert encode_shards(engine, source, out, suffix=suffix, rows_per_shard=30) == Shards(ROWS, 4, 0)
    assert [path.name for path in sorted(out.glob("part-*"))] == [f"part-0000{i}{suffix}" for i in range(4)]
    texts = [json.loads(line)["text"] for line in source.read_text().splitlines()]
    parts = sorted(out.glob("part-*"))
    if suffix == ".npy":
        vectors = np.concatenate([np.load(path) for path in parts])
    elif suffix == ".parquet":
        table = pq.read_table(parts)
        assert table["id"].to_pylist() == list(range(ROWS))
        vectors = np.array(table["embedding"].to_pylist())
    else:
        rows = [json.loads(line) for path in parts for line in path.read_text().splitlines()]
        assert [row["id"] for row in rows] == list(range(ROWS))
        vectors = np.array([row["embedding"] for row in rows])
    np.testing.assert_allclose(vectors, engine.embed(texts), atol=2e-6)


def test_finished_shards_are_not_computed_again(
    engine: Engine, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    encode_shards(engine, source, whole, rows_per_shard=30)
    encode_shards(engine, source, broken, rows_per_shard=30)
    (broken / "part-00001.parquet").unlink()
    (broken / ".part-00002.parquet.tmp-x").mkdir()
    times = {path.name: path.stat().st_mtime_ns for path in broken.glob("part-*")}
    assert encode_shards(engine, source, broken, rows_per_shard=30) == Shards(ROWS, 4, 3)
    assert contents(broken) == contents(whole)
    assert all((broken / name).stat().st_mtime_ns == then for name, then in times.items())


KILLED = """
import os, signal, sys
from matryoshka2d.inference import shards as sharding
from matryoshka2d.cli import main

whole, written = sharding.embedded_chunks, 0

def stop_in_the_middle(*arguments):
    global written
    written += 1
    for chunk in whole(*arguments):
        yield chunk
        if written == int(os.environ["STOP_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)

sharding.embedded_chunks = stop_in_the_middle
sys.argv = ["matryoshka2d", *sys.argv[1:]]
main()
"""


def test_killed_twice_and_resumed_it_is_what_an_unbroken_run_leaves(
    engine: Engine, model: str, source: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = ["encode", model, str(source), str(broken), "--size", "3x16", "--precision", "fp32"]
    for stop_at, codes in ((2, -signal.SIGKILL), (1, -signal.SIGKILL), (0, 0)):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, *words, "--shard-rows", "30", "-q"],
            env={"STOP_AT": str(stop_at), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == codes, done.stderr
        if stop_at == 2:
            assert [path.name for path in broken.glob("part-*")] == ["part-00000.parquet"]
    encode_shards(engine, source, whole, size="3x16", rows_per_shard=30)
    assert contents(broken) == contents(whole)


def test_shards_of_another_run_are_refused(engine: Engine, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    encode_shards(engine, source, out, rows_per_shard=50)
    before = contents(out)
    with pytest.raises(UserError, match=r"another run \(size was 3x16"):
        encode_shards(engine, source, out, size="2x8", rows_per_shard=50)
    with pytest.raises(UserError, match="rows_per_shard was 50"):
        encode_shards(engine, source, out, rows_per_shard=20)
    assert contents(out) == before
    source.write_text(source.read_text().replace("cat", "dog"))
    with pytest.raises(UserError, match="source_hash was"):
        encode_shards(engine, source, out, rows_per_shard=50)
    encode_shards(engine, source, out, rows_per_shard=20, overwrite=True)
    assert len(list(out.glob("part-*"))) == 5


def test_a_folder_with_something_else_is_refused(engine: Engine, source: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        encode_shards(engine, source, tmp_path / "used")
    with pytest.raises(UserError, match=r"shards cannot end in '\.csv'"):
        encode_shards(engine, source, tmp_path / "new", suffix=".csv")
    assert not (tmp_path / "new").exists()


def test_an_interruption_leaves_whole_shards(
    engine: Engine, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = type(engine).embed, []

    def stop(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(engine), "embed", stop)
        encode_shards(engine, source, tmp_path / "out", rows_per_shard=30)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {MANIFEST, "part-00000.parquet", "part-00001.parquet"}


def test_time_does_not_tell(engine: Engine, source: Path, tmp_path: Path) -> None:
    encode_shards(engine, source, tmp_path / "a", rows_per_shard=30)
    time.sleep(0.01)
    encode_shards(engine, source, tmp_path / "b", rows_per_shard=30)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
