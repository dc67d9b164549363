"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.files import (
    check_free,
    full_disk_in_one_line,
    open_vectors,
    remove_folder,
    staged_file,
    staged_folder,
)
from tests import tiny


def test_a_file_appears_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with pytest.raises(ZeroDivisionError), staged_file(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert not target.exists()
    with staged_file(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with staged_folder(target) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt), staged_folder(target, overwrite=True) as folder:
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt
    assert (target / "weights").read_text() == "old"
    with staged_folder(target, overwrite=True) as folder:
        (folder / "other").write_text("new")
    assert [path.name for path in target.iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_process_left_goes_with_the_next_write_and_what_another_writes_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "import os, signal, sys; from matryoshka2d.files import staged_file\n"
        "with staged_file(sys.argv[1]) as half: half.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed, alive = tmp_path / "a [1].txt", tmp_path / "b.txt"
    for target in (killed, alive):
        subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with staged_file(killed) as temporary:
        temporary.write_text("whole")
        assert len(list(tmp_path.iterdir())) == 2
    assert f"removed what a killed run left beside {killed}" in caplog.text
    with staged_file(alive) as first:
        (held,) = (entry for entry in tmp_path.iterdir() if entry.name.startswith(".b.txt"))
        first.write_text("first")
        with staged_file(alive) as second:
            second.write_text("second")
        assert held.is_dir()
    assert alive.read_text() == "first"
    with staged_file(killed) as temporary:
        temporary.write_text("whole again")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a [1].txt", "b.txt"]


KILLED_WHILE_REPLACING = """
import os, pathlib, signal, sys
from matryoshka2d.files import staged_folder

replace, calls = pathlib.Path.replace, []

def dying(self, target):
    calls.append(1)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

pathlib.Path.replace = dying
with staged_folder(sys.argv[1], overwrite=True) as folder:
    (folder / "new").write_text("new")
"""


@pytest.mark.parametrize(("rename", "kept"), [(1, "old"), (2, "old"), (3, "new")])
def test_a_kill_between_the_renames_of_a_folder_loses_nothing(
    tmp_path: Path, rename: int, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "model"
    with staged_folder(target) as folder:
        (folder / "old").write_text("old")
    subprocess.run([sys.executable, "-c", KILLED_WHILE_REPLACING, str(target), str(rename)], check=False)
    assert target.exists() is (rename != 2)
    with pytest.raises(UserError, match="exists already"):
        check_free(target)
    assert [path.name for path in target.iterdir()] == [kept]
    assert (f"put {target} back" in caplog.text) is (rename == 2)
    with staged_folder(target, overwrite=True) as folder:
        (folder / "newer").write_text("newer")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in target.iterdir()] == ["newer"]


def test_what_a_kill_left_before_the_lock_goes_when_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (".a.txt.new-x", ".a.txt.tmp-x", ".a.txt.tmp-in-use-without-locks/a.txt"):
        (tmp_path / name).mkdir(parents=True)
    for new, left in ((60, 4), (-1, 2)):
        monkeypatch.setattr("matryoshka2d.files._NEW", new)
        with staged_file(tmp_path / "a.txt") as temporary:
            temporary.write_text("whole")
        assert len(list(tmp_path.iterdir())) == left


def test_a_folder_is_removed_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_folder(tmp_path / "none")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "big").touch()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("matryoshka2d.files.shutil.rmtree", die)
        remove_folder(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    remove_folder(tmp_path / "run")
    with staged_folder(tmp_path / "run") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_vectors_take_their_room_at_once(tmp_path: Path) -> None:
    matrix = open_vectors(tmp_path / "a.npy", 1000, 64)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= matrix.nbytes
    matrix[-1] = 1
    matrix.flush()
    assert np.load(tmp_path / "a.npy").sum() == 64


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise NotImplementedError("no locks here")

    monkeypatch.setattr("filelock.FileLock._acquire", none)
    for content in ("one", "two"):
        with staged_file(tmp_path / "a.txt") as temporary:
            temporary.write_text(content)
    assert (tmp_path / "a.txt").read_text() == "two"


def test_a_folder_in_use_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    check_free(tmp_path / "used")
    (tmp_path / "used" / "x").touch()
    with pytest.raises(UserError, match="exists already"):
        check_free(tmp_path / "used")
    check_free(tmp_path / "used", overwrite=True)
    with pytest.raises(UserError, match="it is a file"):
        check_free(tmp_path / "used" / "x")
    with pytest.raises(UserError, match="is a file, not a folder"):
        check_free(tmp_path / "used" / "x" / "deeper")
    with pytest.raises(UserError, match="it is a folder"), staged_file(tmp_path / "used"):
        pass
    with (
        pytest.raises(UserError, match="exists already"),
        staged_file(tmp_path / "used" / "x", overwrite=False),
    ):
        pass


def test_an_unwritable_place_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere, so the refusal of the system is played.
    monkeypatch.setattr("matryoshka2d.files.os.access", lambda *_: False)
    with pytest.raises(UserError, match="no permission to write") as raised:
        check_free(tmp_path / "new")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_a_full_disk_is_one_line_whoever_notices(error: Exception) -> None:
    with (
        pytest.raises(UserError, match="cannot write out: no room on the disk"),
        full_disk_in_one_line("out"),
    ):
        raise error
    with (
        pytest.raises(UserError, match="no room on the disk"),
        full_disk_in_one_line("out"),
    ):
        try:
            raise error
        except Exception as first:
            raise ValueError("could not save") from first


@pytest.mark.parametrize("staged", [staged_file, staged_folder])
def test_whatever_is_written_says_that_there_is_no_room(
    staged: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    with (
        pytest.raises(UserError, match=r"cannot write .*/out: no room on the disk"),
        staged(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_left_alone() -> None:
    for error in (ZeroDivisionError("x"), UserError("mine"), OSError(errno.ENOENT, "No such file")):
        with pytest.raises(type(error), match=str(error.args[-1])), full_disk_in_one_line("out"):
            raise error


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set the umask for one test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077], indirect=True)
def test_every_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    def write(path: Path, mode: int) -> None:
        path.touch()
        path.chmod(mode)

    with staged_folder(tmp_path / "model") as folder:
        (folder / "1_Dense").mkdir()
        for name in ("secret", "1_Dense/secret"):
            write(folder / name, 0o600)
        write(folder / "open", 0o666)
        write(folder / "runs", 0o700)
        (folder / "link").symlink_to("secret")
    with staged_file(tmp_path / "vectors.npy") as file:
        write(file, 0o600)
    found = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in tmp_path.rglob("*")}
    for name in ("secret", "open", "vectors.npy"):
        assert found[name] == 0o666 & ~umask, name
    for name in ("runs", "1_Dense", "model"):
        assert found[name] & 0o700 == 0o700, name
        assert found[name] & umask == 0, name
    assert (tmp_path / "model" / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "vectors.npy"]


def test_saved_weights_may_be_read_by_others(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path / "source", dense=True), device="cpu")
    encoder.add_heads()
    with staged_folder(tmp_path / "model") as folder:
        encoder.save(str(folder), create_model_card=False)
    usual = tmp_path / "usual"
    usual.touch()
    modes = {
        stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").rglob("*.*") if path.is_file()
    }
    assert modes == {stat.S_IMODE(usual.stat().st_mode)}


@pytest.mark.parametrize("there", [True, False], ids=["leads to what is there", "leads nowhere yet"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path: Path, kind: str, there: bool) -> None:
    behind = tmp_path / "disk" / "behind"
    behind.parent.mkdir()
    link = tmp_path / "link"
    link.symlink_to(behind)
    if kind == "file":
        if there:
            behind.write_text("old")
        with staged_file(link) as temporary:
            temporary.write_text("new")
        assert behind.read_text() == "new"
    else:
        if there:
            behind.mkdir()
            (behind / "old").touch()
        with staged_folder(link, overwrite=True) as folder:
            (folder / "new").touch()
        assert [path.name for path in behind.iterdir()] == ["new"]
    assert link.is_symlink()
    assert link.resolve() == behind
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]
    assert [path.name for path in behind.parent.iterdir()] == ["behind"]


def test_links_in_a_circle_and_devices_are_refused(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / one).symlink_to(tmp_path / other)
    with pytest.raises(UserError, match="in a circle"), staged_folder(tmp_path / "a", overwrite=True):
        pass
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UserError, match="a device or a pipe"), staged_file(tmp_path / "pipe"):
            pass
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
