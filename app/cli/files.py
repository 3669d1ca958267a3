"""Writes files atomically, asks before replacing one, refuses to read pipes and devices, and checks names."""

import contextlib
import errno
import itertools
import os
import re
import stat
import tempfile
import time
from pathlib import Path

from app.cli.errors import TranscriptError, UsageError
from app.cli.output.terminal import Terminal

MAX_NAME_BYTES = 200
TEMPORARY_PREFIX = ".saving-"
ABANDONED_AFTER_S = 24 * 3600.0
_NAME = re.compile(r"[^\W_][\w .()+-]*", re.UNICODE)


def checked_name(name: str) -> str:
    """Returns the name without `.json`, valid as a file name in any folder.

    Raises:
        TranscriptError: the name is not valid.
    """
    name = name.strip().removesuffix(".json")
    if not _NAME.fullmatch(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise TranscriptError(
            f"{name!r} is not a valid name.",
            "A name starts with a letter or digit and contains letters, digits, spaces and . _ - ( ) +.",
        )
    return name


def keep_backup(path: Path) -> Path:
    """Keeps the existing file under a second name, the first free one of `<name>~`, `<name>~2` and so on.
    Returns that name."""
    for number in itertools.count(1):
        backup = path.with_name(f"{path.name}~{'' if number == 1 else number}")
        with contextlib.suppress(FileExistsError):
            os.link(path, backup)
            return backup
    raise AssertionError("some name is free")


def check_regular(path: Path) -> None:
    """Raises OSError if the file is missing, or is a pipe or a device, from which reading might never end."""
    if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file with mode 0600 through a temporary file, so that no reader and no crash sees half of
    it."""
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # renamed already
            os.unlink(temporary)
    _sync_folder(path.parent)


def remove_abandoned(folder: Path) -> None:
    """Removes temporary files that a killed client left behind a day ago or earlier."""
    with contextlib.suppress(OSError):
        for file in folder.glob(f"{TEMPORARY_PREFIX}*"):
            if file.stat().st_mtime < time.time() - ABANDONED_AFTER_S:
                file.unlink()


def _sync_folder(folder: Path) -> None:
    """Makes the new name survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def make_way(path: Path, terminal: Terminal) -> None:
    """Asks whether an existing file may be replaced, keeps a copy of it, and says where that is.

    Raises:
        UsageError: the user does not agree or cannot be asked, or the path is not a file.
        TranscriptError: no copy can be made.
    """
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file.")
    if not await terminal.confirms(f"{path} exists. Replace it?"):
        hint = "Choose another name, or remove the file first."
        raise UsageError(f"{path} exists and was not replaced.", hint)
    try:
        backup = keep_backup(path)
    except OSError as error:
        raise TranscriptError(f"{path} cannot be copied: {error.strerror}.") from None
    terminal.note(f"The earlier file is kept as {backup}")
