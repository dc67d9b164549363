"""The machine that a figure was measured on, and what a piece of work cost there."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

_VERSIONS = ("matryoshka2d", "sentence-transformers", "transformers", "torch")


def facts() -> dict[str, str | int]:
    """Return processor, threads, versions and date; the GPU too where there is one."""
    return {
        "processor": processor(),
        **({"accelerator": name} if (name := accelerator()) else {}),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "date": date.today().isoformat(),
        **{name: version(name) for name in _VERSIONS},
    }


def processor() -> str:
    """Return the processor's name and the runs that matter for bf16."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    runs = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in named.get("flags", "").split()]
    family = f"family {named.get('cpu family', '?')}, model {named.get('model', '?')}"
    return f"{named.get('model name', platform.machine())} ({family}; {', '.join(runs) or 'no bf16 runs'})"


def accelerator() -> str:
    """Return the name of the GPU that torch would use, or an empty string."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else ""


@dataclass
class Cost:
    """Seconds that a block took, and the most memory that the process held meanwhile."""

    seconds: float = 0.0
    peak_memory_mb: float = 0.0


@contextlib.contextmanager
def measured() -> Iterator[Cost]:
    """Measure a block; the cost is filled in when it ends.

    What earlier blocks have freed goes back to the system first: the peak of a block is its own, and a plan
    of many runs needs no more memory than its largest.

    >>> with measured() as cost:
    ...     _ = sum(range(1000))
    >>> cost.seconds > 0, cost.peak_memory_mb > 1
    (True, True)
    """
    cost = Cost()
    _give_back()
    _forget_peak()
    started = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - started
    cost.peak_memory_mb = _peak_memory_mb()


def _give_back() -> None:
    """Return freed memory to the system; glibc keeps it otherwise, in pieces that the next run cannot use."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _forget_peak() -> None:
    """Let Linux count the peak of the process from here; elsewhere it stays that of the whole process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_memory_mb() -> float:
    with contextlib.suppress(OSError, StopIteration, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
    run = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / run
