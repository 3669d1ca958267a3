"""Saves the current conversation automatically, in a thread that writes one state after the other.

A conversation is locked while a client has it open, so that two clients do not overwrite each other.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from app.cli.errors import TranscriptError
from app.cli.files import remove_abandoned
from app.cli.transcripts.transcript_file import Transcript, save

INTERVAL_S = 2.0  # between two writes while an answer arrives


class Autosave:
    def __init__(self, folder: Path | None, lock: Callable[[int, int], object] = fcntl.flock) -> None:
        """Writes to `folder`, or nowhere if it is None. `lock` raises OSError as `fcntl.flock` does."""
        self.folder = folder
        self._lock = lock
        self._writer = ThreadPoolExecutor(1, "autosave")
        self._last_write: Future[None] | None = None
        self._locks: dict[str, int] = {}  # file descriptors; the system unlocks them if the client dies

    def claim(self, session_id: str) -> bool:
        """Locks the conversation. Returns False if another client has it open."""
        if self.folder is None or session_id in self._locks:
            return True
        locks = self.folder / "open"
        # If the disk fails, the next write does, too, and `failure` reports it. A disk may have no locks.
        with contextlib.suppress(OSError):
            for folder in (self.folder, locks):  # both are private
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(locks / session_id, os.O_CREAT | os.O_RDWR, 0o600)
            self._locks[session_id] = lock
            try:
                self._lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._locks.pop(session_id))
                return False
        return True

    def close(self) -> None:
        """Waits for pending writes and unlocks all conversations."""
        self._writer.shutdown()
        for session_id, lock in self._locks.items():
            if self.folder is not None:
                (self.folder / "open" / session_id).unlink(missing_ok=True)
            os.close(lock)
        self._locks.clear()

    def write(self, transcript: Transcript) -> None:
        """Queues a write of the current state. An empty conversation creates no file."""
        if self.folder is None:
            return
        self.claim(transcript.session_id)
        state = replace(transcript)  # trees are immutable
        self._last_write = self._writer.submit(self._write, self.folder, state)

    def settle(self) -> None:
        """Waits for pending writes.

        Raises:
            TranscriptError: the last state could not be written.
        """
        if self._last_write is not None:
            self._last_write.result()

    def failure(self) -> TranscriptError | None:
        """Why the last write failed, or None. Returns each failure once."""
        if self._last_write is None or not self._last_write.done():
            return None
        error, self._last_write = self._last_write.exception(), None
        return error if isinstance(error, TranscriptError) else None

    @staticmethod
    def _write(folder: Path, transcript: Transcript) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise TranscriptError(f"{folder} cannot be written: {error.strerror}.") from None
        if transcript.tree.messages or (folder / f"{transcript.session_id}.json").exists():
            save(transcript, transcript.session_id, folder, has_conversation_id=True)
        remove_abandoned(folder)
