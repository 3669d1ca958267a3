"""Owns the conversation as the client keeps it, and the files it is saved in.

A file is JSON: `format` and `version` (below), `saved_at`, `title`, `system_prompt`, `model_name` (the last
that answered) and `messages`, each with role, content and what the reply said of itself. Mode 0600.
"""

import contextlib
import json
import os
import re
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from app.models.schemas import TranscriptMessage

FORMAT = "llm-serving conversation"
VERSION = 1
FOLDER = Path("conversations")
MAX_FILE_BYTES = 64_000_000
MAX_NAME_BYTES = 200
_NAME = re.compile(r"[^\W_][\w .()+-]*", re.UNICODE)


class TranscriptError(Exception):
    """One line of what is wrong with a name or a file, and one of what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(slots=True)
class Transcript:
    """User and assistant in turns, beginning with the user."""

    system_prompt: str = ""
    title: str | None = None
    model_name: str | None = None
    messages: list[TranscriptMessage] = field(default_factory=list)

    @property
    def turns(self) -> int:
        return sum(message.role == "user" for message in self.messages)


class TranscriptFile(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    format: Literal["llm-serving conversation"]
    version: Literal[1]
    saved_at: datetime
    title: str | None = None
    system_prompt: str = ""
    model_name: str | None = None
    messages: list[TranscriptMessage]


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


def saved_names(folder: Path = FOLDER) -> list[str]:
    """Newest first."""
    with contextlib.suppress(OSError):
        files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        return [file.stem for file in files]
    return []


def save(transcript: Transcript, name: str, folder: Path = FOLDER, replaces: bool = True) -> Path:
    """Writes the file whole or not at all. One that is there already is kept beside it, ending in `~`, unless
    this conversation `replaces` it.

    Raises:
        TranscriptError: the name is none, or the folder cannot be written.
    """
    path = folder / f"{checked_name(name)}.json"
    document = TranscriptFile(
        format=FORMAT,
        version=VERSION,
        saved_at=datetime.now(UTC),
        title=transcript.title,
        system_prompt=transcript.system_prompt,
        model_name=transcript.model_name,
        messages=transcript.messages,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not replaces:
            _keep_beside(path)
        _write_whole(path, document.model_dump_json(indent=2).encode())
    except OSError as error:
        raise TranscriptError(f"{path} cannot be written: {error.strerror}.", "Nothing was saved.") from None
    return path


def load(name: str, folder: Path = FOLDER) -> Transcript:
    """
    Raises:
        TranscriptError: there is no such file, or it is no transcript.
    """
    path = folder / f"{checked_name(name)}.json"
    document = _document(path)
    return Transcript(document.system_prompt, document.title, document.model_name, document.messages)


def _document(path: Path) -> TranscriptFile:
    data = _parsed(path)
    version = data.get("version") if isinstance(data, dict) and data.get("format") == FORMAT else None
    if isinstance(version, int) and version > VERSION:
        raise TranscriptError(
            f"{path} was written by a newer version of this program (format {version}).", "Update this one."
        )
    try:
        return TranscriptFile.model_validate(data)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        raise TranscriptError(
            f"{path} is no conversation saved by this program ({where}).", "/save NAME writes one."
        ) from None


def _parsed(path: Path) -> object:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TranscriptError(f"{path} is larger than {MAX_FILE_BYTES:,} bytes: it was not read.")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        names = ", ".join(saved_names(path.parent)[:5])
        hint = f"There are: {names}." if names else "/save NAME saves this conversation."
        raise TranscriptError(f"There is no {path}.", hint) from None
    except OSError as error:
        raise TranscriptError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise TranscriptError(f"{path} is no JSON.", "/save NAME writes a file that loads.") from None


def _keep_beside(path: Path) -> None:
    beside = path.with_name(f"{path.name}~")
    with contextlib.suppress(FileNotFoundError):
        kept = path.with_name(f"{path.name}~{os.getpid()}")
        os.link(path, kept)
        os.replace(kept, beside)


def _write_whole(path: Path, content: bytes) -> None:
    """Through a temporary file, which is made with mode 0600, so that no moment shows half of it."""
    handle, temporary = tempfile.mkstemp(prefix=".saving-", dir=path.parent)
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


def _sync_folder(folder: Path) -> None:
    """So that the new name outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
