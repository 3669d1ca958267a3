"""Keeps the files of downloads that are not finished, for one download of each file at a time.

It uses huggingface_hub's own locks, so that other programs can share the cache.
"""

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # exported at run time only

from app.core.paths import NO_LOCKS

logger = logging.getLogger(__name__)

Lock = Callable[..., AbstractContextManager[object]]

_LOCK_POLL_S = 0.2
_SWEEP_WAIT_S = 0.01
_PARTIAL = ".incomplete"
# Files that huggingface_hub, or this module on a disk without locks, leaves behind when it is killed. They
# cannot be resumed.
_ORPHAN = re.compile(r"[0-9a-f]{40,64}\.[0-9a-f]{8}\.incomplete|tmp_[0-9a-f-]{36}")
_ORPHAN_AGE_S = 86_400.0  # without a new byte, after which nobody is still writing a file that has no lock


@dataclass(frozen=True, slots=True)
class UnfinishedFiles:
    """The unfinished files in the folder `blobs`, with their locks in the folder `locks`."""

    blobs: Path
    locks: Path
    lock: Lock = WeakFileLock  # raises OSError if the disk has no locks

    def size(self, digest: str) -> int:
        """Returns how many bytes a download of the file need not fetch again."""
        with suppress(OSError):
            return self._shared(digest).stat().st_size
        return 0

    @contextmanager
    def hold(self, digest: str, check: Callable[[], None]) -> Iterator[Path]:
        """Yields the path of the unfinished file, which only one thread of one process has at a time.

        While another has it, this waits, and calls `check`, which may raise. On a disk without locks, each
        download has a file of its own, which is removed at the end.
        """
        with ExitStack() as held:
            if self._is_locked(digest, held, check):
                yield self._shared(digest)
                return
            own = self.blobs / f"{digest}.{secrets.token_hex(4)}{_PARTIAL}"
            try:
                yield own
            finally:
                own.unlink(missing_ok=True)

    def _shared(self, digest: str) -> Path:
        return self.blobs / f"{digest}{_PARTIAL}"

    def _is_locked(self, digest: str, held: ExitStack, check: Callable[[], None]) -> bool:
        """Waits for the lock. Returns False if the disk has none."""
        while True:
            check()
            try:
                held.enter_context(self.lock(self.locks / f"{digest}.lock", timeout=_LOCK_POLL_S))
                return True
            except Timeout:
                continue
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                logger.warning("no file locks, so that this download cannot be resumed: %s", self.locks)
                return False


def sweep(cache_dir: Path, lock: Lock = WeakFileLock) -> None:
    """Removes the remains of killed downloads that cannot be resumed. It waits for no lock."""
    for path in cache_dir.glob("models--*/blobs/*"):
        digest = path.name.partition(".")[0]
        is_done = path.name == digest + _PARTIAL and path.with_name(digest).exists()
        if is_done or _ORPHAN.fullmatch(path.name):
            with suppress(OSError):
                _remove(path, cache_dir / ".locks" / path.parent.parent.name / f"{digest}.lock", lock)


def _remove(path: Path, lock_file: Path, lock: Lock) -> None:
    """Removes the file unless a download may still be writing it."""
    if not lock_file.exists():
        path.unlink()
        return
    try:
        with lock(lock_file, timeout=_SWEEP_WAIT_S):
            path.unlink()
    except OSError as error:  # as Timeout, which has no number
        if error.errno in NO_LOCKS and time.time() - path.stat().st_mtime > _ORPHAN_AGE_S:
            path.unlink()
