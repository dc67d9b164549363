"""Writing without ever leaving half a file: write to a temporary name beside the target, then rename."""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import BaseFileLock, FileLock

from matryoshka2d.errors import UserError

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

# Seconds in which a process that made a temporary folder surely locks it.
_NEW = 60
# What the names of temporary folders hold: not yet locked, and locked.
_MADE, _HELD = ".new-", ".tmp-"
_ASIDE = "replaced"
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

    The file is written where a link of that name leads, and the link stays. Its mode is what the umask says.

    Raises
    ------
    UserError
        If the target exists and may not be replaced, is a folder or a device, or cannot be written, as on a
        full disk.
    """
    path = behind_links(target)
    check_file_free(path, overwrite=overwrite)
    with full_disk_in_one_line(path), _temporary_sibling(path) as temporary:
        yield temporary
        grant_what_the_umask_says(temporary)
        temporary.replace(path)


@contextlib.contextmanager
def staged_folder(target: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; when the block ends well, it becomes `target` in one step.

    An existing target is refused before any work is done, unless it is empty or `overwrite` is set;
    then it is moved aside, and put back if the rename fails. A link of that name stays: the folder that it
    leads to is the one that is written. The mode of every file is what the umask says.

    Raises
    ------
    UserError
        If the target is a file, is in use and may not be replaced, or cannot be written, as on a full disk.
    """
    path = behind_links(target)
    check_free(path, overwrite=overwrite)
    with full_disk_in_one_line(path), _temporary_sibling(path) as temporary:
        temporary.mkdir()
        yield temporary
        grant_what_the_umask_says(temporary)
        _swap_in(temporary, path)


def remove_folder(target: str | os.PathLike[str]) -> None:
    """Remove a folder, if it is there, so that a kill leaves it whole or gone: half of it is never found."""
    path = Path(target)
    if path.is_dir():
        with _temporary_sibling(path) as temporary:
            path.replace(temporary)


def open_vectors(path: Path, rows: int, dims: int) -> np.memmap[Any, np.dtype[np.float32]]:
    """Return a new ``.npy`` file of float32 [rows, dims] to write into.

    Its room on the disk is taken at once: a write into a mapped file that finds none kills the process.

    Raises
    ------
    OSError
        If there is no room.
    """
    import numpy as np

    matrix: np.memmap[Any, np.dtype[np.float32]] = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(rows, dims)
    )
    take_room(path)
    return matrix


def take_room(path: Path, size: int | None = None) -> None:
    """Give a file all the room on the disk that its size asks for, or the size that is named.

    Raises
    ------
    OSError
        If there is no room.
    """
    # Other systems have no such call.
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size if size is None else size)
        except OSError as error:
            # Nor have some file systems.
            if error.errno in _NO_ROOM:
                raise


def behind_links(target: str | os.PathLike[str]) -> Path:
    """Return the path that a name leads to: itself, unless it is a link, which need not lead anywhere yet.

    Raises
    ------
    UserError
        If links lead in a circle.
    """
    path = Path(target)
    if not path.is_symlink():
        return path
    behind = Path(os.path.realpath(path))
    if behind.is_symlink():
        raise UserError(f"cannot write {path}: its links lead in a circle")
    return behind


def grant_what_the_umask_says(written: Path) -> None:
    """Give a file, or every file of a folder, the mode that the umask leaves; some libraries write 600.

    Parameters
    ----------
    written
        What was just written. Files that may be run stay so; links are left alone.
    """
    files = [written] if written.is_file() else [path for path in written.rglob("*") if path.is_file()]
    if not files:
        return
    # The umask can only be read by setting it, for all threads; a new file tells it as well.
    probe = written.with_name(f"{written.name}.mode")
    probe.touch(mode=0o666)
    usual = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in files:
        if not file.is_symlink():
            runs = stat.S_IMODE(file.stat().st_mode) & 0o111
            file.chmod(usual | (runs & usual >> 2))


# A disk or a quota that is full, and a file larger than is allowed.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What torch says when its archive could not be written; the system's reason is lost on the way.
_TORCH_CANNOT_WRITE = ("inline_container.cc", "PytorchStreamWriter")
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
        if not says_no_room(error):
            raise
        raise UserError(
            f"cannot write {target}: no room on the disk, or a limit on the size of files; nothing was left"
        ) from error


def says_no_room(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, says that there is no room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        # Libraries that write in other languages only hand on the system's words.
        if any(words in str(error) for words in (*map(os.strerror, _NO_ROOM), _SQLITE_FULL)):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCH_CANNOT_WRITE):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_file_free(path: Path, *, overwrite: bool = False) -> None:
    """Raise a `UserError` unless a file of that name may be written; call it before long work."""
    remove_abandoned(path)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder, expected a file name")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already: choose another name or pass --overwrite")
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {path}: it is a device or a pipe, expected a file name")
    _check_writable(path)


def check_free(path: Path, *, overwrite: bool = False, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Raise a `UserError` unless a folder of that name may be written; call it before long work.

    A folder that holds one of the inputs, or the working folder, is never replaced.
    """
    _put_back(path)
    remove_abandoned(path)
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
    if named:
        return Path(named) / name
    try:
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        # A user without a home, as in a container: a place where nothing is found and nothing can be written.
        usual = Path(os.devnull)
    return usual / "matryoshka2d" / name


@contextlib.contextmanager
def naming_the_cache() -> Iterator[None]:
    """Say of what cannot be written to the cache how to name another one."""
    try:
        yield
    except UserError as error:
        if "cannot write" not in str(error):
            raise
        raise UserError(f"{error}; set MATRYOSHKA2D_CACHE to a folder that can be written") from error


def _check_writable(path: Path) -> None:
    parent = behind_links(path).parent
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
        _put_back(path)
        remove_abandoned(path)
        made = Path(tempfile.mkdtemp(prefix=f".{path.name}{_MADE}", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    lock = FileLock(_lock_in(made, path))
    holder = made
    try:
        # Without a lock the writing goes on, and what a kill leaves stays.
        with contextlib.suppress(*_NO_LOCK):
            lock.acquire()
        # Under the name by which others look for what a kill left it is locked from the first moment.
        holder = made.rename(made.with_name(made.name.replace(_MADE, _HELD)))
        yield holder / path.name
    finally:
        _clear(holder, lock)


def _clear(holder: Path, lock: BaseFileLock) -> None:
    """Remove a temporary folder, its lock last: what a kill leaves of it can be told from what is in use."""
    held = Path(lock.lock_file).name
    with contextlib.suppress(OSError):
        for entry in holder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != held:
                entry.unlink()
    lock.release()
    shutil.rmtree(holder, ignore_errors=True)


def _lock_in(holder: Path, path: Path) -> Path:
    return holder / f"{path.name}.lock"


def _beside(path: Path, kind: str) -> Iterator[Path]:
    yield from path.parent.glob(f".{glob.escape(path.name)}{kind}*")


def remove_abandoned(path: Path) -> None:
    """Remove what a killed process left beside a file or folder, whose lock is free, and say so."""
    for holder in _beside(path, _HELD):
        with _abandoned(holder, path) as lock:
            if lock is not None:
                _clear(holder, lock)
                logger.warning("note: removed what a killed run left beside %s: %s", path, holder.name)
    # Of what was killed before it had the lock, or when the lock was gone, nothing is known but its age.
    for old in filter(_is_old, _beside(path, _MADE)):
        shutil.rmtree(old, ignore_errors=True)
    for old in filter(_is_old, _beside(path, _HELD)):
        with contextlib.suppress(OSError):
            old.rmdir()  # only if nothing is in it


def _is_old(holder: Path) -> bool:
    try:
        return time.time() - holder.stat().st_mtime > _NEW
    except OSError:
        return False


def _put_back(path: Path) -> None:
    """Put a folder back that a process moved aside and was killed before the new one took its place."""
    for aside in path.parent.glob(f".{glob.escape(path.name)}{_HELD}*/{_ASIDE}"):
        with _abandoned(aside.parent, path) as lock:
            if lock is not None and not path.exists():
                aside.replace(path)
                logger.warning("note: put %s back, which a killed run was replacing", path)


@contextlib.contextmanager
def _abandoned(holder: Path, path: Path) -> Iterator[BaseFileLock | None]:
    """Hold the lock of a temporary folder, or give None: somebody is at work there, or there are no locks."""
    file = _lock_in(holder, path)
    lock = FileLock(file, timeout=0)
    with contextlib.suppress(*_NO_LOCK):
        if file.is_file():
            lock.acquire()
    try:
        yield lock if lock.is_locked else None
    finally:
        lock.release()


def _swap_in(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.replace(path)
        return
    aside = temporary.parent / _ASIDE
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
    except OSError as error:
        raise UserError(f"cannot read {kind} {path}: {error.strerror or error}") from error
    # A value such as 2024-13-45 is no date, and some are no value of their tag.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{kind} {path} is not YAML: {error}") from error
