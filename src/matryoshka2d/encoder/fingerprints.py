"""What a model is, as one short name: another bit in any weight or file is another name.

Reading all weights to see that they are still the same takes longer than a first vector should. So the digest
of a large file is kept in the user's cache, and counts as long as the file system says that nobody has
touched the file: its size, its number and both of its times, the second of which nobody can set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from matryoshka2d.errors import UserError
from matryoshka2d.files import staged_file, user_cache

if TYPE_CHECKING:
    from torch import nn

# Smaller files are read faster than what is known of them is looked up.
_LARGE = 1 << 20
# Seconds for which a file must have been left alone: a clock's tick may hide a second change within it.
_SETTLED = 2.0
_NO_PART = (".md", ".log")


def weights_fingerprint(model: nn.Module, without: Sequence[str] = ()) -> str:
    """Return a name for every weight of a model, the same however the model was saved.

    Parameters
    ----------
    model
        An `ElasticEncoder`, loaded whole, or another module.
    without
        Names of modules that do not count, those within them neither.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> weights_fingerprint(model) == weights_fingerprint(model, ["1"])
    False
    """
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(tuple(f"{part}." for part in without)):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def files_fingerprint(folder: Path) -> str | None:
    """Return a name for the contents of a model's folder, or None where links to folders make that uncertain.

    Parameters
    ----------
    folder
        The folder. Hidden files, READMEs and logs are no part of a model.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "config.json")
    ...     _ = file.write_text("{}")
    ...     before = files_fingerprint(Path(folder))
    ...     _ = file.write_text("[]")
    ...     before == files_fingerprint(Path(folder))
    False
    """
    digest = hashlib.sha256()
    for home, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(Path(home, name).is_symlink() for name in folders):
            return None
        for name in sorted(files):
            path = Path(home, name)
            if not name.startswith(".") and path.suffix not in _NO_PART:
                digest.update(f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\0".encode())
    return digest.hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; of a large one that was left alone, as it was taken before."""
    found = path.stat()
    if found.st_size < _LARGE:
        return _sha256(path)
    if time.time() - max(found.st_mtime, found.st_ctime) < _SETTLED:
        return _sha256(path)
    return _kept_sha256(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=64)
def _kept_sha256(path: Path, *state: int) -> str:
    """Return the SHA-256 of a file that the file system describes so."""
    place = user_cache("digests") / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.json"
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["state"] == list(state):
            return str(kept["sha256"])
    except (OSError, ValueError, TypeError, KeyError):  # never kept, or by another version
        pass
    digest = _sha256(path)
    # A cache that cannot be written costs time only.
    with contextlib.suppress(OSError, UserError), staged_file(place) as temporary:
        temporary.write_text(json.dumps({"state": state, "sha256": digest}), encoding="utf-8")
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
