"""The wheel holds everything: it works from an empty folder, templates and types included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_works_from_an_empty_folder(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path / "dist", ROOT], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=empty, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import matryoshka2d; print(matryoshka2d.__file__)").strip().startswith(str(site))
    assert (site / "matryoshka2d" / "py.typed").exists()
    run("-m", "matryoshka2d", "truncate", "default", "2x32", "small")
    assert (empty / "small" / "model.safetensors").exists()
    (empty / "toy.tsv").write_text("score\tsentence1\tsentence2\n5\ta cat\tone cat\n0\ta cat\tthe sea\n")
    run("-m", "matryoshka2d", "evaluate", "small", "--sts", "toy.tsv", "--output", "report")
    assert (empty / "report" / "report.html").exists()
    (empty / "texts.txt").write_text("\n".join(f"sentence number {i}" for i in range(64)) + "\n")
    words = "train --model small --data texts.txt --output trained -q"
    run("-m", "matryoshka2d", *words.split())
    assert "matryoshka2d train" in (empty / "trained" / "README.md").read_text()
