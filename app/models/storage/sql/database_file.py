"""Notices faults of an SQLite database's file of which SQLite itself says nothing, or something misleading.

SQLite goes on writing into a file that was removed, and nobody could read what it commits there. On a disk
without file locks it says that the database is locked.
"""

import asyncio
import fcntl
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from app.core.paths import NO_LOCKS

_Identity = tuple[int, int]


class FileMoved(OSError):
    """The file was moved, removed or replaced."""


class NoFileLocks(OSError):
    """The disk of the file has no locks, which SQLite needs."""


class DatabaseFile:
    """The file at a path, as it was when the database was opened.

    It is looked at in a thread of its own: a disk may be slow, and asyncio's threads may all be busy.
    """

    def __init__(self, path: str, lock: Callable[[int, int], object] = fcntl.lockf) -> None:
        self._path = path
        self._lock = lock
        self._opened: _Identity | None = None
        self._thread = ThreadPoolExecutor(1, "database-file")  # it starts with the first look

    async def check_locks(self) -> None:
        """Raises NoFileLocks if files in this folder cannot be locked."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._try_lock)

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

    def _try_lock(self) -> None:
        """Locks another file of the folder: a descriptor that closes releases all locks of its file."""
        try:
            descriptor, path = tempfile.mkstemp(dir=os.path.dirname(self._path) or ".", prefix=".locks-")
        except OSError:  # SQLite has its own errors for such a folder or disk
            return
        try:
            self._lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise NoFileLocks(error.errno, error.strerror) from None
        finally:
            os.close(descriptor)
            os.unlink(path)

    def _identity(self) -> _Identity | None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino
