"""A tiny model, served in this process for most tests and by a process of its own for the others."""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.inference.tokens import Tokens
from matryoshka2d.search import index_documents
from matryoshka2d.search.stores import open_store
from matryoshka2d.serving.app import State, build_app
from matryoshka2d.serving.catalog import Catalog, load_catalog
from matryoshka2d.serving.options import ServeOptions
from matryoshka2d.serving.searching import ServedIndex, match_index
from matryoshka2d.serving.server import Server
from tests import tiny

EXACT = ServeOptions(engine="torch", precision="fp32", device="cpu")
Served = Callable[..., TestClient]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("served")
    return tiny.sentence_model(folder, prompts={"query": "query : ", "passage": "passage : "})


@pytest.fixture(scope="session")
def encoder(model: str) -> ElasticEncoder:
    return ElasticEncoder(model, device="cpu")


@pytest.fixture(scope="session")
def catalog(model: str) -> Catalog:
    return load_catalog([f"tiny={model}"], EXACT)


@pytest.fixture
def served(catalog: Catalog) -> Iterator[Served]:
    """Return what serves the tiny model, in this process, with the options that are given."""
    opened: list[TestClient] = []

    def serve(index: ServedIndex | None = None, **options: object) -> TestClient:
        app = build_app(State(catalog, ServeOptions(**options), index))  # type: ignore[arg-type]
        client = TestClient(app, raise_server_exceptions=False)
        opened.append(client.__enter__())
        return client

    yield serve
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> str:
    """Return the address of an index of eighty documents of the tiny model."""
    folder = tmp_path_factory.mktemp("documents")
    rng = random.Random(1)
    rows = [
        {"id": f"d{i}", "text": " ".join(rng.choices(tiny.WORDS.split(), k=7)), "even": i % 2 == 0, "year": i}
        for i in range(80)
    ]
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    uri = f"faiss:{folder / 'index'}"
    index_documents(catalog.served["tiny"].engine, folder / "docs.jsonl", uri, prefix=16)
    return uri


@pytest.fixture
def index(documents: str, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> ServedIndex:
    """Return the index of those documents, opened for a server that will close it."""
    # The depths of a random model lie apart: here they count as one space all the same.
    monkeypatch.setattr("matryoshka2d.search.fingerprint._ONE_SPACE", -9.0)
    return match_index(open_store(documents), documents, catalog)


@pytest.fixture
def client(served: Served) -> TestClient:
    return served()


@contextmanager
def process(
    *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``matryoshka2d serve`` on a free port; yield its address and the process."""
    running = subprocess.Popen(
        [sys.executable, "-m", "matryoshka2d", "serve", *arguments, "--port", "0", "--precision", "fp32"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert running.stderr is not None
        line = running.stderr.readline()
        found = re.search(r"http://[\w.:]+", line)
        assert found is not None, line + running.stderr.read()
        yield found[0], running
    finally:
        running.kill()
        running.wait()


class Running:
    """A server in a thread of this process, on a port of its own."""

    def __init__(self, catalog: Catalog, options: ServeOptions, index: ServedIndex | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        started = threading.Event()
        self.server = Server(catalog, options, started.set, index)
        self.state = self.server._state
        self.thread = threading.Thread(target=self.server.run, args=([self._listener],), daemon=True)
        self.thread.start()
        assert started.wait(30)

    def tell_to_stop(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    def stop(self) -> None:
        self.tell_to_stop()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture(scope="session")
def url(catalog: Catalog) -> Iterator[str]:
    """Return the address of a server of the tiny model that all tests share."""
    server = Running(catalog, ServeOptions())
    yield server.url
    server.stop()


@pytest.fixture
def running(catalog: Catalog) -> Iterator[Callable[..., Running]]:
    """Return what starts a server in this process, with the options that are given."""
    started: list[Running] = []

    def start(index: ServedIndex | None = None, **options: object) -> Running:
        started.append(Running(catalog, ServeOptions(**options), index))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def runner(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Iterator[Patched]:
    """Return the runner of the tiny model, whose batches can be slowed down and spoilt."""
    yield Patched(catalog.served["tiny"].engine.runner, monkeypatch)


class Patched:
    """Stands before a runner: waits, fails, or spoils texts that hold a word."""

    def __init__(self, runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self.spoilt: int | None = None
        """A token whose texts get no finite vector."""
        self.deadly: int | None = None
        """A token whose batches fail."""
        self.batches = 0
        monkeypatch.setattr(runner, "run", self._before(runner.run))

    def _before(self, whole: Callable[..., Any]) -> Callable[..., Any]:
        def run(tokens: Tokens, layers: Any) -> Any:
            self.batches += 1
            time.sleep(self.seconds)
            if self.deadly in tokens.ids:
                raise ArithmeticError("a batch that cannot be computed")
            return self._spoil(tokens, whole(tokens, layers))

        return run

    def _spoil(self, tokens: Tokens, vectors: np.ndarray) -> np.ndarray:
        for row, ids in enumerate(np.split(tokens.ids, np.cumsum(tokens.lengths)[:-1])):
            if self.spoilt in ids:
                vectors = vectors.copy()
                vectors[row, 0] = np.nan
        return vectors


@pytest.fixture(scope="session")
def mixed() -> list[str]:
    """Return texts of 1 to 58 words."""
    rng = random.Random(0)
    return [" ".join(rng.choices(tiny.WORDS.split(), k=rng.randint(1, 58))) for _ in range(40)]
