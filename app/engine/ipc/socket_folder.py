"""Makes folders for Unix sockets, whose paths are limited to about a hundred bytes."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

FORK_SERVER = "fork-server"
WORKER = "worker"
_PREFIX = "llm-"
_LONGEST_PATH = 103  # bytes; 107 on Linux
_LONGEST_REST = len(f"/{_PREFIX}12345678/{FORK_SERVER}")
_SETTLED_S = 60.0  # the age of a folder whose owner has had time to lock it


class SocketFolder:
    """A new folder that only this user may enter, for one socket, WORKER or FORK_SERVER.

    The owner must call `close`. The folder is locked while its owner lives; those that killed processes have
    left are removed.
    """

    def __init__(self, parents: Sequence[str] | None = None) -> None:
        """Makes the folder in the first of the parents that is short enough.

        By default they are the folder for temporary files, the user's own run-time folder, and /tmp.

        Raises:
            OSError: none of them can be used.
        """
        parent = _short_parent(parents)
        _remove_abandoned(Path(parent))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock: int | None = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        # A file system may have no locks. Then nobody removes anything there either.
        with contextlib.suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """Removes the folder. May be called again."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def _short_parent(parents: Sequence[str] | None) -> str:
    if parents is None:
        parents = (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp")
    for parent in parents:
        if (
            parent
            and len(os.fsencode(parent)) + _LONGEST_REST <= _LONGEST_PATH
            and os.access(parent, os.W_OK)
        ):
            return parent
    raise OSError(errno.ENAMETOOLONG, "TMPDIR is too long a path for a socket; set it to a shorter one")


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}????????"):
        with contextlib.suppress(OSError):  # another user's, in use, or removed meanwhile
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if _may_be_abandoned(lock):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
            finally:
                os.close(lock)


def _may_be_abandoned(folder: int) -> bool:
    """Returns whether an open folder is this user's, older than a minute, and holds such sockets only."""
    status = os.fstat(folder)
    names = set(os.listdir(folder))
    is_settled = time.time() - status.st_mtime > _SETTLED_S
    return status.st_uid == os.getuid() and is_settled and bool(names) and names <= {WORKER, FORK_SERVER}
