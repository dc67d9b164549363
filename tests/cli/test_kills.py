"""Commands that are killed at random moments: nothing is lost, half-written or left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "kills.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_kills_lose_nothing() -> None:
    # A process of its own: torch has started threads in this one, which a fork would not have.
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--moments", "2", "--texts", "200"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("|") for line in done.stdout.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == ["train", "encode to a file", "fit", "export"]
    assert all((row[3].strip(), row[-2].strip()) == ("2", "0") for row in rows)
