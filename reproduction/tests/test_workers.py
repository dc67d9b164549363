"""Worker processes: they do what they are given, and end with the command that started them."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from matryoshka2d_reproduction.runner import workers

STARTS_A_WORKER = """
import functools, os, sys, time
from matryoshka2d_reproduction.runner import workers

if __name__ == "__main__":
    with workers(2) as submit:
        for pid in submit([("a", os.getpid), ("b", functools.partial(time.sleep, 600))], lambda run: True):
            print(pid, flush=True)
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_tasks_are_done_if_they_fit(jobs: int) -> None:
    tasks: Any = [(name, functools.partial(int, name)) for name in ("1", "2", "3")]
    with workers(jobs) as submit:
        assert sorted(submit(tasks, lambda run: str(run) != "2")) == [1, 3]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_command_leaves_no_worker_running(tmp_path: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(STARTS_A_WORKER, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        worker = int(command.stdout.readline())
        os.kill(worker, 0)
        command.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(worker, 0)
            time.sleep(0.1)
        pytest.fail("the worker is still there")
