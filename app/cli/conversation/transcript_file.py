"""Owns the conversation as the client keeps it, and the files it is saved in.

A file is JSON: `format` and `version` (below), `saved_at`, `title`, `system_prompt`, `model_name` (the last
that answered) and `messages`, each with role, content and what the reply said of itself. Mode 0600.
A file without `format`, as the server's own account of a conversation, is read where it has `messages`.
"""

import contextlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from app.cli.errors import TranscriptError
from app.cli.files import checked_name, keep_beside, write_whole
from app.models.schemas import TranscriptMessage

FORMAT = "llm-serving conversation"
VERSION = 1
FOLDER = Path("conversations")
MAX_FILE_BYTES = 64_000_000
MAX_TITLE = 60  # characters shown of a conversation without a title
_OWN_FIELDS = ("role", "content", "timestamp", "model_name", "finish_reason")


def new_session_id() -> str:
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


@dataclass(slots=True)
class Transcript:
    """User and assistant in turns, beginning with the user. `session_id` names the file that it is kept in
    while it goes on."""

    system_prompt: str = ""
    title: str | None = None
    model_name: str | None = None
    messages: list[TranscriptMessage] = field(default_factory=list)
    session_id: str = field(default_factory=new_session_id, compare=False)

    @property
    def turns(self) -> int:
        return sum(message.role == "user" for message in self.messages)

    @property
    def name(self) -> str:
        """The title, or how the conversation began: the files that went along stand below an empty line."""
        if self.title is not None:
            return self.title
        began = self.messages[0].content.strip().partition("\n\n")[0] if self.messages else ""
        words = " ".join(began.split())
        return words if len(words) <= MAX_TITLE else f"{words[: MAX_TITLE - 3]}..."


class TranscriptFile(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=(), defer_build=True)

    format: Literal["llm-serving conversation"]
    version: Literal[1]
    saved_at: datetime
    title: str | None = None
    system_prompt: str = ""
    model_name: str | None = None
    messages: list[TranscriptMessage]


def saved_names(folder: Path = FOLDER) -> list[str]:
    """Newest first."""
    with contextlib.suppress(OSError):
        files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        return [file.stem for file in files]
    return []


def document_of(transcript: Transcript) -> bytes:
    """The transcript as a file holds it."""
    document = TranscriptFile(
        format=FORMAT,
        version=VERSION,
        saved_at=datetime.now(UTC),
        title=transcript.title,
        system_prompt=transcript.system_prompt,
        model_name=transcript.model_name,
        messages=transcript.messages,
    )
    return document.model_dump_json(indent=2).encode()


def save(transcript: Transcript, name: str, folder: Path = FOLDER, replaces: bool = True) -> Path:
    """Writes the file whole or not at all. One that is there already is kept beside it, ending in `~`, unless
    this conversation `replaces` it.

    Raises:
        TranscriptError: the name is none, or the folder cannot be written.
    """
    path = folder / f"{checked_name(name)}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not replaces:
            keep_beside(path)
        write_whole(path, document_of(transcript))
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
    if isinstance(data, dict) and "format" not in data and isinstance(data.get("messages"), list):
        data = _first_version(data, path)
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


def _first_version(data: Mapping[str, Any], path: Path) -> dict[str, Any]:  # Any: JSON, validated afterwards
    """A bare list of messages in the format of version 1: a system message becomes the system prompt."""
    messages = [message for message in data["messages"] if isinstance(message, dict)]
    told = [message.get("content") for message in messages if message.get("role") == "system"]
    said = [message for message in messages if message.get("role") != "system"]
    return {
        "format": FORMAT,
        "version": VERSION,
        "saved_at": datetime.fromtimestamp(path.stat().st_mtime, UTC),
        "title": data.get("title"),
        "system_prompt": data.get("system_prompt") or (told[0] if told else ""),
        "model_name": data.get("model_name"),
        "messages": [{key: message[key] for key in _OWN_FIELDS if key in message} for message in said],
    }


def _parsed(path: Path) -> object:
    try:
        if not path.is_file() and path.exists():
            raise TranscriptError(f"{path} is no regular file.")
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
