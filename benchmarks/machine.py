"""The machine that a figure was measured on, as its reader needs it."""

from __future__ import annotations

import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

_VERSIONS = ("matryoshka2d", "sentence-transformers", "transformers", "torch")


def facts() -> dict[str, str | int]:
    """Return processor, threads, date and versions; the GPU too where there is one."""
    import torch

    gpu = {"accelerator": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "processor": _processor(),
        **gpu,
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "date": date.today().isoformat(),
        **{name: version(name) for name in _VERSIONS},
    }


def _processor() -> str:
    """Return the processor's name, family and what it has for bf16."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    units = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in named.get("flags", "").split()]
    family = f"family {named.get('cpu family', '?')}, model {named.get('model', '?')}"
    return f"{named.get('model name', platform.machine())} ({family}; {', '.join(units) or 'no bf16 runs'})"
