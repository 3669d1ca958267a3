"""Owns how the client writes files: names that are fit for any folder, and contents that are there whole."""

import contextlib
import os
import re
import tempfile
import time
from pathlib import Path

from app.cli.errors import TranscriptError

MAX_NAME_BYTES = 200
UNFINISHED = ".saving-"  # begins the name of a file that is being written
FORGOTTEN_AFTER_S = 24 * 3600.0
_NAME = re.compile(r"[^\W_][\w .()+-]*", re.UNICODE)


def checked_name(name: str) -> str:
    """The name without its ending, fit to be a file's in any folder.

    Raises:
        TranscriptError: saying what a name may hold.
    """
    name = name.strip().removesuffix(".json")
    if not _NAME.fullmatch(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise TranscriptError(
            f"{name!r} cannot be a file's name.",
            "A name begins with a letter or a digit and holds letters, digits, spaces and . _ - ( ) +.",
        )
    return name


def keep_beside(path: Path) -> None:
    """Keeps what is there under the name with `~` at its end."""
    beside = path.with_name(f"{path.name}~")
    with contextlib.suppress(FileNotFoundError):
        kept = path.with_name(f"{path.name}~{os.getpid()}")
        os.link(path, kept)
        os.replace(kept, beside)


def write_whole(path: Path, content: bytes) -> None:
    """Through a temporary file, which is made with mode 0600, so that no moment shows half of it."""
    handle, temporary = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has its name by now
            os.unlink(temporary)
    _sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Removes what a client that was killed left unfinished."""
    with contextlib.suppress(OSError):
        for file in folder.glob(f"{UNFINISHED}*"):
            if file.stat().st_mtime < time.time() - FORGOTTEN_AFTER_S:
                file.unlink()


def _sync_folder(folder: Path) -> None:
    """So that the new name outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
