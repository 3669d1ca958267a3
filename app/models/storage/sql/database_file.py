"""Notices that the file of an SQLite database is no longer the one that was opened.

SQLite goes on writing into a file that was removed, and nobody could read what it commits there.
"""

import os

_Identity = tuple[int, int]


class FileMoved(OSError):
    """The file was moved, removed or replaced."""


class DatabaseFile:
    """The file at a path, as it was when the database was opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._opened: _Identity | None = None

    def remember(self) -> None:
        """Call this when the database was opened for the first time."""
        self._opened = self._identity()

    def check(self) -> None:
        """Raises FileMoved if another file, or none, is at the path now."""
        if self._opened is not None and self._identity() != self._opened:
            raise FileMoved(f"{self._path} is another file than the one that was opened")

    def _identity(self) -> _Identity | None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino
