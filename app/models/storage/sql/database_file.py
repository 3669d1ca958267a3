"""Notices that the file of an SQLite database is no longer the one that was opened.

SQLite goes on writing into a file that was removed, and nobody could read what it commits there.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

_Identity = tuple[int, int]


class FileMoved(OSError):
    """The file was moved, removed or replaced."""


class DatabaseFile:
    """The file at a path, as it was when the database was opened.

    It is looked at in a thread of its own: a disk may be slow, and asyncio's threads may all be busy.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._opened: _Identity | None = None
        self._thread = ThreadPoolExecutor(1, "database-file")  # it starts with the first look

    async def remember(self) -> None:
        """Call this when the database was opened for the first time."""
        self._opened = await self._look()

    async def check(self) -> None:
        """Raises FileMoved if another file, or none, is at the path now."""
        if self._opened is not None and await self._look() != self._opened:
            raise FileMoved(f"{self._path} is another file than the one that was opened")

    def close(self) -> None:
        """Lets the thread end, without waiting for a look at a slow disk."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _look(self) -> _Identity | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._identity)

    def _identity(self) -> _Identity | None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino
