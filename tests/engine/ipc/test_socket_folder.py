"""Sockets have short paths, also if the folder for temporary files has a long one."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.ipc.socket_folder import FORK_SERVER, WORKER, SocketFolder


@pytest.fixture
def short_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def deep(tmp_path: Path) -> Path:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    return folder


def test_folder_is_in_the_first_parent_that_is_short_enough(tmp_path: Path) -> None:
    folder = SocketFolder((str(deep(tmp_path)), "", "/tmp"))
    assert folder.path.parent == Path("/tmp")
    assert folder.path.stat().st_mode & 0o077 == 0
    folder.close()
    assert not folder.path.exists()


def left_behind(parent: Path, name: str, *files: str, age_s: float = 120) -> Path:
    folder = parent / name
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    os.utime(folder, (time.time() - age_s,) * 2)
    return folder


def test_folders_of_processes_that_were_killed_are_removed(short_path: Path) -> None:
    killed = left_behind(short_path, "llm-12345678", FORK_SERVER)
    other = [
        left_behind(short_path, "llm-serving-1234", WORKER),
        left_behind(short_path, "llm-abcdefgh", WORKER, "notes.txt"),
        left_behind(short_path, "llm-bcdefghi"),
        left_behind(short_path, "llm-cdefghij", WORKER, age_s=0),
    ]
    (short_path / "llm-defghijk").symlink_to(other[0])
    folder = SocketFolder((str(short_path),))
    folder.close()
    assert not killed.exists()
    assert all(path.exists() for path in other)


def test_folder_in_use_is_kept(short_path: Path) -> None:
    used = SocketFolder((str(short_path),))
    (used.path / WORKER).touch()
    os.utime(used.path, (time.time() - 120,) * 2)
    SocketFolder((str(short_path),)).close()
    assert (used.path / WORKER).exists()
    used.close()


def test_error_names_the_variable_and_leaves_nothing_behind(tmp_path: Path) -> None:
    long = deep(tmp_path)
    with pytest.raises(OSError, match="TMPDIR"):
        SocketFolder((str(long),))
    assert list(long.iterdir()) == []


def test_worker_starts_with_a_long_folder_for_temporary_files(tmp_path: Path) -> None:
    """In a process of its own, because Python keeps the folder that it found first."""
    long = deep(tmp_path)
    code = "from app.engine.ipc.launcher import ForkServer; s = ForkServer(); print(s.path); s.close()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"TMPDIR": str(long)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) < 104
    assert list(long.iterdir()) == []
