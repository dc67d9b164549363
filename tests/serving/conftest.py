"""A tiny model, served in this process for most tests and by a process of its own for the others."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.serving.app import State, build_app
from matryoshka2d.serving.catalog import Catalog, load_catalog
from matryoshka2d.serving.options import ServeOptions
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

    def serve(**options: object) -> TestClient:
        app = build_app(State(catalog, ServeOptions(**options)))  # type: ignore[arg-type]
        client = TestClient(app, raise_server_exceptions=False)
        opened.append(client.__enter__())
        return client

    yield serve
    for client in opened:
        client.__exit__(None, None, None)


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


@pytest.fixture(scope="session")
def url(model: str) -> Iterator[str]:
    """Return the address of a process that serves the tiny model."""
    with process(f"tiny={Path(model)}") as (address, _):
        yield address
