"""Sockets have short paths, also if the folder for temporary files has a long one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.engine.ipc.socket_folder import make_socket_folder


def deep(tmp_path: Path) -> Path:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    return folder


def test_folder_is_in_the_first_parent_that_is_short_enough(tmp_path: Path) -> None:
    folder = make_socket_folder((str(deep(tmp_path)), "", "/tmp"))
    assert folder.parent == Path("/tmp")
    assert folder.stat().st_mode & 0o077 == 0
    shutil.rmtree(folder)


def test_error_names_the_variable_and_leaves_nothing_behind(tmp_path: Path) -> None:
    long = deep(tmp_path)
    with pytest.raises(OSError, match="TMPDIR"):
        make_socket_folder((str(long),))
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
