"""Checks files in the Hub's cache against their names, which are their checksums.

Each file is read once, and again only after it has changed. The results are kept in the cache's folder.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.core.model_folder import model_files

_BLOCK = 2**24  # bytes read at a time
_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's id of a small file, SHA-256 of a large one


class Cancelled(Exception):
    """The work was stopped, because nobody waits for its result any more."""


@dataclass(frozen=True, slots=True)
class Checksums:
    """Keeps a small record in `folder` for each checked file. Records may be deleted at any time."""

    folder: Path

    def find_damaged(
        self, snapshot: Path, report: Callable[[float], None], is_cancelled: threading.Event
    ) -> Path | None:
        """Returns the first file of the snapshot that does not match its checksum; None if none is damaged.

        Files without a checksum count as undamaged. `report` is called with the share of bytes read.

        Raises:
            Cancelled: `is_cancelled` was set.
            OSError.
        """
        unknown = [blob for blob in _blobs(snapshot) if not self._is_known(blob)]
        total, done = sum(blob.stat().st_size for blob in unknown), 0

        def read(count: int) -> None:
            nonlocal done
            done += count
            report(done / total)
            if is_cancelled.is_set():
                raise Cancelled

        for blob in unknown:
            if not matches(blob, blob.name, read):
                return blob
            self.remember(blob)
        return None

    def remember(self, blob: Path) -> None:
        """Records that the blob matches its checksum."""
        with suppress(OSError):  # files in a read-only cache are checked again next time
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / blob.name).write_text(_state(blob), encoding="utf-8")

    def _is_known(self, blob: Path) -> bool:
        try:
            return (self.folder / blob.name).read_text(encoding="utf-8") == _state(blob)
        except (OSError, ValueError):
            return False


def matches(path: Path, digest: str, read: Callable[[int], None] = lambda count: None) -> bool:
    """Returns whether the file has this hexadecimal checksum: a SHA-256, or git's id if it has 40 digits.

    Calls `read` with the number of bytes after each block.
    """
    hashed = hashlib.sha256() if len(digest) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            hashed.update(block)
            read(len(block))
    return hashed.hexdigest() == digest


def _blobs(snapshot: Path) -> Iterable[Path]:
    """Yields the targets of the snapshot's links whose names are checksums."""
    for pointer in model_files(snapshot):
        blob = pointer.resolve()
        if pointer.is_symlink() and _NAME.fullmatch(blob.name) and blob.is_file():
            yield blob


def _state(blob: Path) -> str:
    """Returns a text that changes whenever the file changes."""
    found = blob.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"
