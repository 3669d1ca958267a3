"""Owns the file of the conversation that goes on: it is written as the conversation grows, in a thread of its
own, one state after the other."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from app.cli.errors import TranscriptError
from app.cli.files import sweep
from app.cli.transcripts import Transcript, save

EVERY_S = 2.0  # between two writes while an answer streams


class Journal:
    def __init__(self, folder: Path | None) -> None:
        """`None` keeps nothing."""
        self.folder = folder
        self._writer = ThreadPoolExecutor(1, "journal")
        self._written: Future[None] | None = None

    def write(self, transcript: Transcript) -> None:
        """Has the transcript written as it is now. One in which nothing was said makes no file."""
        if self.folder is None:
            return
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
