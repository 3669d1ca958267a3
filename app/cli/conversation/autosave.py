"""Owns the file of the conversation that goes on: it is written as the conversation grows, in a thread of its
own, one state after the other."""

import contextlib
import fcntl
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from app.cli.conversation.transcript_file import Transcript, save
from app.cli.errors import TranscriptError
from app.cli.files import sweep

EVERY_S = 2.0  # between two writes while an answer streams


class Autosave:
    def __init__(self, folder: Path | None) -> None:
        """`None` keeps nothing."""
        self.folder = folder
        self._writer = ThreadPoolExecutor(1, "autosave")
        self._written: Future[None] | None = None
        self._claims: dict[str, int] = {}  # open files, locked until they are closed, however the client ends

    def claim(self, session_id: str) -> bool:
        """Whether the conversation is ours from here on: not while another client goes on with it."""
        if self.folder is None or session_id in self._claims:
            return True
        locks = self.folder / "open"
        with contextlib.suppress(OSError):  # what cannot be written at all is told by `failure`
            for folder in (self.folder, locks):  # each is private
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(locks / session_id, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._claims[session_id] = lock
        return True

    def close(self) -> None:
        """Leaves its conversations to other clients, once all is written."""
        self._writer.shutdown()
        for session_id, lock in self._claims.items():
            if self.folder is not None:
                (self.folder / "open" / session_id).unlink(missing_ok=True)
            os.close(lock)
        self._claims.clear()

    def write(self, transcript: Transcript) -> None:
        """Has the transcript written as it is now. One in which nothing was said makes no file."""
        if self.folder is None:
            return
        self.claim(transcript.session_id)
        now = replace(transcript, messages=list(transcript.messages), session_id=transcript.session_id)
        self._written = self._writer.submit(self._write, self.folder, now)

    def settle(self) -> None:
        """Waits for what was to be written.

        Raises:
            TranscriptError: the last state could not be.
        """
        if self._written is not None:
            self._written.result()

    def failure(self) -> TranscriptError | None:
        """Why the last state that was tried could not be written; each is told once."""
        if self._written is None or not self._written.done():
            return None
        failed, self._written = self._written.exception(), None
        return failed if isinstance(failed, TranscriptError) else None

    @staticmethod
    def _write(folder: Path, transcript: Transcript) -> None:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if transcript.messages or (folder / f"{transcript.session_id}.json").exists():
            save(transcript, transcript.session_id, folder)
        sweep(folder)
