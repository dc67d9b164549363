"""What docs/serve.md shows runs: its Python against a server, its commands as far as their options go."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from matryoshka2d.cli import main
from matryoshka2d.serving.catalog import load_catalog
from matryoshka2d.serving.options import ServeOptions
from tests import tiny
from tests.serving.conftest import EXACT, Running
from tests.serving.test_clients import CLIENTS

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("matryoshka2d serve ")]
ELSEWHERE = ("langchain_openai", "llama_index", "litellm")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server of a model that has the sizes of the page."""
    folder = tiny.sentence_model(tmp_path_factory.mktemp("docs"), hidden_size=128, num_attention_heads=4)
    server = Running(load_catalog([f"my-model={folder}"], EXACT), ServeOptions())
    yield server.url
    server.stop()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split()[1])
def test_an_example_runs(example: str, address: str, capfd: pytest.CaptureFixture[str]) -> None:
    code = example.replace("http://127.0.0.1:8000", address)
    assert code != example
    if not any(name in code for name in ELSEWHERE):
        exec(compile(code, "docs/serve.md", "exec"), {"__name__": "docs"})
        assert capfd.readouterr().out.strip() in ("128", "my-model@3x128")
        return
    if CLIENTS is None:
        pytest.skip("MATRYOSHKA2D_CLIENTS names no Python with the libraries of tests/serving/clients.txt")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    done = subprocess.run(
        [CLIENTS, "-c", code], capture_output=True, text=True, check=False, timeout=300, env=environment
    )
    assert done.stdout.strip() == "128", done.stderr


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_has_such_options(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys.txt").write_text("secret\n")
    served: list[list[str]] = []
    monkeypatch.setattr("matryoshka2d.serving.serve", lambda models, *_, **__: served.append(models))
    monkeypatch.setattr("sys.argv", shlex.split(line))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert served == [["my-model"]]


def test_every_code_that_the_page_names_is_one_of_the_source() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (Path(__file__).parents[2] / "src" / "matryoshka2d" / "serving").glob("*.py")
    )
    table = PAGE.partition("| status | code |")[2].partition("\n\n")[0]
    codes = re.findall(r"`([a-z_]+)`", table.replace("`param`", ""))
    assert len(codes) > 10
    assert [code for code in codes if f'"{code}"' not in source] == []


def test_every_metric_that_the_page_names_is_there(address: str) -> None:
    import httpx

    body = {"model": "my-model", "input": "a cat"}
    httpx.post(f"{address}/v1/embeddings", json=body)
    httpx.post(f"{address}/v1/embeddings", json={})
    page = httpx.get(f"{address}/metrics").text
    for name in set(
        re.findall(r"(?:matryoshka2d|process)_[a-z_]+(?<!_)", PAGE.partition("## What to watch")[2])
    ):
        assert name in page, name
