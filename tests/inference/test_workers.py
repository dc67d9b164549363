"""Threads that run batches: they end when Python does, even in the middle of a batch."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENDS = """
import sys, threading, time
from matryoshka2d.inference import open_engine

engine = open_engine(sys.argv[1], "torch", "fp32", device="cpu")
engine.embed(["a cat"])
if sys.argv[2] == "busy":
    texts = [f"a cat sat on the mat {i}" for i in range(3000)]
    threading.Thread(target=engine.embed, args=(texts,), daemon=True).start()
    time.sleep(0.05)
print("done", flush=True)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_python_ends_well(model: str, state: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS, model, state], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
