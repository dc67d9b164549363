"""Shards on Ray and in parts are those of a local run, whoever is killed; so is an index."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from matryoshka2d.errors import UserError
from matryoshka2d.inference import Engine, open_engine
from matryoshka2d.inference.encoding import Survey
from matryoshka2d.inference.shards import Job, Shards, ShardWriter, encode_shards
from matryoshka2d.search import index_documents
from matryoshka2d.search.stores import open_store
from tests import tiny

ROWS, SIZE = 120, "3x16"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.sentence_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(model: str) -> Engine:
    return open_engine(model, "torch", "fp32", size=SIZE)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("source") / "corpus.jsonl"
    rows = [
        {"id": i, "text": " ".join(rng.choices(tiny.WORDS.split(), k=rng.randint(1, 30)))}
        for i in range(ROWS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def whole(engine: Engine, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "out"
    encode_shards(engine, source, folder, rows_per_shard=10)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- parts, without Ray ---------------------------------------------------------------------------------


def test_parts_in_any_order_write_what_one_run_writes(
    engine: Engine, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    for part, shards in ((3, 2), (1, 3), (5, 2), (2, 3), (4, 2), (1, 3)):
        done = encode_shards(engine, source, out, rows_per_shard=10, part=(part, 5))
        assert done.shards == shards
    assert done == Shards(30, 3, 3)
    assert contents(out) == whole


def test_two_parts_at_once_do_not_disturb_each_other(
    engine: Engine, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    def write(part: int) -> None:
        encode_shards(engine, source, tmp_path / "out", rows_per_shard=10, part=(part, 2))

    threads = [threading.Thread(target=write, args=(part,)) for part in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("order", [[5, 0, 11, 11, 3, 4], list(range(12))])
def test_a_writer_takes_shards_in_any_order(
    engine: Engine, source: Path, tmp_path: Path, whole: dict[str, bytes], order: list[int]
) -> None:
    job = Job(source, tmp_path, ".parquet", Survey(ROWS, "text", schema=schema(source)), engine.size, 10)
    writer = ShardWriter(engine, job)
    for number in order:
        writer.write(number)
    assert all(whole[path.name] == path.read_bytes() for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == len(set(order))


def schema(source: Path) -> Any:
    from matryoshka2d.inference.encoding import look_over

    return look_over(source, None, with_schema=True).schema


@pytest.mark.parametrize(("part", "overwrite"), [((0, 2), False), ((3, 2), False), ((1, 2), True)])
def test_a_part_that_cannot_be_is_one_line(
    engine: Engine, source: Path, tmp_path: Path, part: tuple[int, int], overwrite: bool
) -> None:
    with pytest.raises(UserError, match=r"cannot be|would remove what the others wrote"):
        encode_shards(engine, source, tmp_path / "out", part=part, overwrite=overwrite)
    assert not (tmp_path / "out").exists()


def test_an_index_from_shards_is_that_of_one_run(
    engine: Engine, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def run(job: Job, missing: list[int], bar: Any) -> None:
        writer = ShardWriter(engine, job)
        for number in missing:
            calls.append(number)
            writer.write(number)
            if len(calls) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr("matryoshka2d.search.building._ROWS_PER_SHARD", 40)
    uris = [f"faiss:{tmp_path / name}" for name in ("here", "there")]
    index_documents(engine, source, uris[0])
    with pytest.raises(KeyboardInterrupt):
        index_documents(engine, source, uris[1], run=run, work=tmp_path / "work")
    built = index_documents(engine, source, uris[1], run=run, work=tmp_path / "work")
    assert (built.documents, built.added) == (ROWS, ROWS)
    assert calls == [0, 1, 2]
    assert not list((tmp_path / "work").iterdir())
    here, there = (list(open_store(uri).everything()) for uri in uris)
    assert [block for block, _ in here] == [block for block, _ in there]
    assert index_documents(engine, source, uris[1], run=run, work=tmp_path / "work").added == 0


# --- Ray ------------------------------------------------------------------------------------------------

DRIVER = """
import sys
from matryoshka2d.cli import main
sys.argv = ["matryoshka2d", *sys.argv[1:]]
main()
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(model: str, source: Path, tmp_path: Path) -> Iterator[Start]:
    """Start `encode --runner ray` in a process of its own; whatever is left of it ends with the test."""
    pytest.importorskip("ray")
    started: list[subprocess.Popen[str]] = []

    def encode(*more: str) -> subprocess.Popen[str]:
        words = ["encode", model, str(source), str(tmp_path / "out"), "--size", SIZE, "--precision", "fp32"]
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *words, "--shard-rows", "10", "--runner", "ray", "-q", *more],
            env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield encode
    for process in started:
        for one in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            one.kill()
        process.kill()
        process.wait()


def wait_for_shards(folder: Path, count: int) -> None:
    for _ in range(3600):
        if len(list(folder.glob("part-*"))) >= count:
            return
        time.sleep(0.05)
    pytest.fail("no shard was written in three minutes")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2", "3"])
def test_ray_writes_what_one_run_writes_and_never_waits_forever(
    start: Start, tmp_path: Path, whole: dict[str, bytes], workers: str
) -> None:
    _, said = (process := start("--workers", workers)).communicate(timeout=300)
    assert process.returncode == 0, said
    assert contents(tmp_path / "out") == whole


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_cost_their_shards_alone(
    start: Start, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    driver = start("--workers", "2")
    wait_for_shards(out, 1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(1)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    again = start("--workers", "2")
    wait_for_shards(out, min(len(before) + 1, 12))
    own = psutil.Process(again.pid)
    workers = [one for one in own.children(recursive=True) if "MapWorker" in " ".join(one.cmdline())]
    for one in workers[:1]:
        one.kill()
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert contents(out) == whole
    assert all((out / name).stat().st_mtime_ns == then for name, then in before.items())


def test_a_runner_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from matryoshka2d.cli.runners import check_runner

    with pytest.raises(UserError, match="no runner is called 'spark'"):
        check_runner("spark")
    monkeypatch.setattr("matryoshka2d.errors.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"this needs ray: pip install 'matryoshka2d\[ray\]'"):
        check_runner("ray")
