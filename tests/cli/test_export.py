"""matryoshka2d export, as a user types it: what it prints, what it leaves, what it refuses in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from tests.cli.conftest import Run


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_says_what_it_wrote_and_how_that_agrees(run: Run, model: str, sandbox: Path) -> None:
    outcome = run("export", model, "--size", "2x8", "--to", "out")
    assert outcome.code == 0
    wrote, compared = outcome.out.splitlines()
    assert wrote.startswith("Wrote out: 2x8 as sentence-transformers fp32, ")
    assert compared.startswith("Loaded again and compared: 32 texts, largest difference ")
    assert ", alone and beside others 1.000000 (allowed: at most 1e-05 in any coordinate, and a " in compared
    assert SentenceTransformer("out", device="cpu").encode("a cat").shape == (8,)


def test_json_is_the_record(run: Run, model: str, sandbox: Path) -> None:
    found = run("export", model, "--to", "out", "--json").json
    assert found.pop("output") == "out"
    assert found == json.loads((sandbox / "out" / "export.json").read_text())
    assert found["command"] == f"matryoshka2d export {model} --to out --format sentence-transformers"


def test_quiet_is_quiet(run: Run, model: str, sandbox: Path) -> None:
    outcome = run("export", model, "--size", "1x8", "--to", "out", "-q")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--size 5x8 --to out", "size 5x8 is too deep: the model has 4 layers"),
        ("--size 2x8 --to out --format onix", "format 'onix' is not known"),
        ("--size 2x8 --to out --format onnx --precision bf16", "onnx does not come in precision 'bf16'"),
        ("--sizes 1-2x8 --to out", "a folder of sentence-transformers holds one size"),
        ("--size 2x8 --sizes 1-2x8 --to out --format onnx", "not both"),
        ("--size 2x8", "Missing option '--to'"),
        ("--size 2x8 --to /proc/nothing/out", "cannot write /proc/nothing/out"),
    ],
)
def test_mistakes(refused: Any, model: str, sandbox: Path, words: str, said: str) -> None:
    assert said in refused("export", model, *words.split())
    assert list(sandbox.iterdir()) == []


def test_an_existing_folder(refused: Any, model: str, sandbox: Path) -> None:
    (sandbox / "out").mkdir()
    (sandbox / "out" / "mine").write_text("keep me")
    assert "out exists already: choose another output or pass --overwrite" in refused(
        "export", model, "--size", "2x8", "--to", "out"
    )
    assert (sandbox / "out" / "mine").read_text() == "keep me"


def test_the_model_itself_is_never_replaced(refused: Any, model: str, sandbox: Path) -> None:
    shutil.copytree(model, sandbox / "mine")
    before = sorted(path.name for path in (sandbox / "mine").iterdir())
    assert "cannot be replaced" in refused("export", "mine", "--size", "2x8", "--to", "mine", "--overwrite")
    assert sorted(path.name for path in (sandbox / "mine").iterdir()) == before


@pytest.mark.parametrize("where", ["config", "modules"])
def test_a_model_with_code_of_its_own(refused: Any, model: str, sandbox: Path, where: str) -> None:
    shutil.copytree(model, sandbox / "custom")
    if where == "config":
        path = sandbox / "custom" / "config.json"
        own = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
        path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    else:
        path = sandbox / "custom" / "modules.json"
        modules = json.loads(path.read_text())
        modules[1]["type"] = "mine.Pooling"
        path.write_text(json.dumps(modules))
    (sandbox / "custom" / "mine.py").write_text("raise SystemExit('this code was run')\n")
    message = refused("export", "custom", "--size", "2x8", "--to", "out")
    assert "code of its own" in message
    assert [path.name for path in sandbox.iterdir()] == ["custom"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root"
)
@pytest.mark.slow
@pytest.mark.parametrize("form", ["sentence-transformers", "onnx", "openvino"])
def test_a_disk_that_is_full(minilm: str, tmp_path: Path, form: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        words = ["export", minilm, "--size", "2x32", "--to", str(disk / "out"), "--format", form]
        command = [sys.executable, "-m", "matryoshka2d", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: cannot write ")
        assert "no room on the disk" in done.stderr
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
