"""Killed at random moments, `index` and `recut` lose nothing, hold nothing twice, and go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.search.conftest import Place

ROOT = Path(__file__).parents[2]


def kill(place: Place, work: Path, kills: int) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.search.killing", str(work), str(kills), place(), place(), place()],
        cwd=ROOT,
        # A child of a process whose threads compute would wait for them forever.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(json.loads(done.stdout)["kills"])


@pytest.mark.parametrize("place", ["faiss"], indirect=True)
def test_a_killed_run_goes_on(place: Place, tmp_path: Path) -> None:
    assert kill(place, tmp_path, 3) == 9


@pytest.mark.slow
def test_twenty_kills_of_each(place: Place, tmp_path: Path) -> None:
    assert kill(place, tmp_path, 20) == 60
