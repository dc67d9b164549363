"""Names made of content: what was trained from the same things has the same key, and is not trained twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

RUNS_VERSION = 1
"""Part of every key. Raise it when a change alters what a plan trains or measures: all runs are then new."""

_DIGITS = 16


def key_of(*parts: Any) -> str:
    """Return a key for JSON values.

    >>> key_of({"a": 1}, "b") == key_of({"a": 1}, "b"), key_of("a") == key_of("b")
    (True, False)
    """
    text = json.dumps([RUNS_VERSION, *parts], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def key_of_file(path: str | Path) -> str:
    """Return a key for the content of a file, or of all files of a folder with their names in it."""
    root = Path(path)
    if root.is_dir():
        files = sorted(file for file in root.rglob("*") if file.is_file())
        return key_of([[file.relative_to(root).as_posix(), key_of_file(file)] for file in files])
    status = root.stat()
    return _hash(str(root.resolve()), status.st_size, status.st_mtime_ns)


def key_of_model(name: str) -> str:
    """Return a key for a model: of the folder's content, or of the name where the hub holds the content."""
    return key_of_file(name) if Path(name).is_dir() else key_of("hub", name)


def key_of_texts(texts: Iterable[str]) -> str:
    """Return a key for some texts in their order."""
    return key_of(list(texts))


@lru_cache(maxsize=1024)
def _hash(path: str, size: int, changed_ns: int) -> str:  # noqa: ARG001 - another file has other answers
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
