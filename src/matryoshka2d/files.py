"""Writing without ever leaving half a file: write to a temporary name beside the target, then rename."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from matryoshka2d.errors import UserError

# Seconds in which a process that made its lock surely holds it.
_NEW = 60
# What a lock raises that cannot be had: it is held (filelock's Timeout is an OSError), or there are no locks.
_NO_LOCK = (OSError, NotImplementedError)


@contextlib.contextmanager
def staged_file(target: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well, it becomes `target` in one step.

    Parameters
    ----------
    target
        The file to write. Its folder is made if it is missing.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    UserError
        If the target exists and may not be replaced, is a folder, or cannot be written.
    """
    path = Path(target)
    check_file_free(path, overwrite=overwrite)
    with _temporary_sibling(path) as temporary:
        yield temporary
        temporary.replace(path)


@contextlib.contextmanager
def staged_folder(target: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; when the block ends well, it becomes `target` in one step.

    An existing target is refused before any work is done, unless it is empty or `overwrite` is set;
    then it is moved aside, and put back if the rename fails.

    Raises
    ------
    UserError
        If the target is a file, is in use and may not be replaced, or cannot be written.
    """
    path = Path(target)
    check_free(path, overwrite=overwrite)
    with _temporary_sibling(path) as temporary:
        temporary.mkdir()
        yield temporary
        _swap_in(temporary, path)


# A disk or a quota that is full, and a file larger than is allowed.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SQLITE_FULL = "database or disk is full"


@contextlib.contextmanager
def full_disk_in_one_line(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the libraries say when there is no room to write into one line.

    Raises
    ------
    UserError
        If the disk is full; whatever was written so far is the caller's to remove.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not out_of_room(error):
            raise
        raise UserError(
            f"cannot write {target}: no room on the disk, or a limit on the size of files; nothing was left"
        ) from error


def out_of_room(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, says that there is no room on the disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        # Libraries that write in other languages only hand on the system's words.
        if any(words in str(error) for words in (*map(os.strerror, _NO_ROOM), _SQLITE_FULL)):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_file_free(path: Path, *, overwrite: bool = False) -> None:
    """Raise a `UserError` unless a file of that name may be written; call it before long work."""
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder, expected a file name")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already: choose another name or pass --overwrite")
    _check_writable(path)


def check_free(path: Path, *, overwrite: bool = False, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Raise a `UserError` unless a folder of that name may be written; call it before long work.

    A folder that holds one of the inputs, or the working folder, is never replaced.
    """
    if path.is_file():
        raise UserError(f"cannot write to {path}: it is a file, expected the name of a folder")
    if path.is_dir():
        if any(path.iterdir()) and not overwrite:
            raise UserError(f"{path} exists already: choose another output or pass --overwrite")
        for needed in (Path.cwd(), *map(Path, inputs)):
            if needed.exists() and needed.resolve().is_relative_to(path.resolve()):
                raise UserError(f"{path} cannot be replaced: {needed} is in use; choose another output")
    _check_writable(path)


def user_cache(name: str) -> Path:
    """Return a folder for what can be made again: in ``$MATRYOSHKA2D_CACHE`` or the user's cache folder."""
    named = os.environ.get("MATRYOSHKA2D_CACHE")
    usual = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "matryoshka2d"
    return (Path(named) if named else usual) / name


def _check_writable(path: Path) -> None:
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"cannot write {path}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK):
        raise UserError(f"cannot write {path}: no permission to write in {parent}")


@contextlib.contextmanager
def _temporary_sibling(path: Path) -> Iterator[Path]:
    _check_writable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    lock = FileLock(_lock_in(holder, path))
    try:
        # Without a lock the writing goes on, and what a kill leaves stays.
        with contextlib.suppress(*_NO_LOCK):
            lock.acquire()
        yield holder / path.name
    finally:
        lock.release()
        shutil.rmtree(holder, ignore_errors=True)


def _lock_in(holder: Path, path: Path) -> Path:
    return holder / f"{path.name}.lock"


def _remove_abandoned(path: Path) -> None:
    """Remove what a killed process left beside a target: its lock is free, and no longer new."""
    for holder in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
        lock = _lock_in(holder, path)
        with contextlib.suppress(*_NO_LOCK):
            if time.time() - lock.stat().st_mtime > _NEW:
                with FileLock(lock, timeout=0):
                    shutil.rmtree(holder, ignore_errors=True)


def _swap_in(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.replace(path)
        return
    aside = temporary.parent / "replaced"
    path.replace(aside)
    try:
        temporary.replace(path)
    except OSError:
        aside.replace(path)
        raise


def read_yaml(path: Path, kind: str, expected: str) -> Any:
    """Return what a YAML file holds.

    Parameters
    ----------
    path
        The file.
    kind
        What messages call it, as ``"plan"``.
    expected
        What should have been named, for the message when there is no such file.

    Raises
    ------
    UserError
        If the file is missing or not YAML.

    Examples
    --------
    >>> read_yaml(Path("missing.yaml"), "plan", "a YAML file")
    Traceback (most recent call last):
    ...
    matryoshka2d.errors.UserError: plan missing.yaml does not exist: expected a YAML file
    """
    import yaml

    if not path.is_file():
        raise UserError(f"{kind} {path} does not exist: expected {expected}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{kind} {path} is not YAML: {error}") from error
