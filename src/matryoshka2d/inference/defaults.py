"""Which engine and precision is a model's default on this machine: what ``benchmark --save`` found."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from matryoshka2d.files import naming_the_cache, staged_file, user_cache

_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Default:
    """A saved choice.

    Parameters
    ----------
    engine, precision
        What `open_engine` takes for ``"auto"``.
    processor
        The machine's processor when it was measured; on another one the choice does not count.
    day
        When, as 2026-01-31.
    texts_per_second
        How fast it was, at the full size.
    """

    engine: str
    precision: str
    processor: str
    day: str
    texts_per_second: float


def save_default(model: str | Path, engine: str, precision: str, texts_per_second: float) -> Path:
    """Remember a choice for a model on this machine; returns the file that holds it."""
    path = _place(model)
    entry = Default(engine, precision, processor(), date.today().isoformat(), round(texts_per_second, 1))
    with naming_the_cache(), staged_file(path) as temporary:
        temporary.write_text(json.dumps(asdict(entry), indent=1) + "\n", encoding="utf-8")
    return path


def saved_default(model: str | Path) -> Default | None:
    """Return the choice that was saved for a model on a processor like this, or None."""
    try:
        entry = Default(**json.loads(_place(model).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # never saved, or by another version
        return None
    return entry if entry.processor == processor() else None


def processor() -> str:
    """Return what this machine's processor calls itself and can do, in short."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    facts = [
        line for line in lines if line.startswith(("model", "cpu family", "flags", "Features", "CPU part"))
    ]
    return f"{platform.machine()} {hashlib.sha256(''.join(facts).encode()).hexdigest()[:16]}"


def _place(model: str | Path) -> Path:
    """Return the file for a model; by its weights where it is a folder, for a new training has none yet."""
    from matryoshka2d.default_model import resolve_model

    name = resolve_model(str(model))
    parts = [name]
    folder = Path(name)
    if folder.is_dir():
        weights = sorted(file for pattern in _WEIGHTS for file in folder.rglob(pattern))
        parts = [
            str(folder.resolve()),
            *(f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in weights),
        ]
    return user_cache("defaults") / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.json"
