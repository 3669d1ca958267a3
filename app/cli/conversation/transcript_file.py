"""A conversation as the client keeps it, and the JSON files that /save and the autosave write.

A file has `format` and `version` (see below), `saved_at`, `title`, `system_prompt`, `model_name` (of the last
answer) and `messages`, each with role, content and the facts about the answer. Its mode is 0600. A file
without `format`, such as the server's own JSON of a conversation, can be loaded if it has `messages`.
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
from app.cli.files import checked_name, write_atomically
from app.models.schemas import TranscriptMessage

FORMAT = "llm-serving conversation"
VERSION = 1
FOLDER = Path("conversations")
MAX_FILE_BYTES = 64_000_000
MAX_NAME_LENGTH = 60  # characters, for a conversation without a title
_OWN_FIELDS = ("role", "content", "timestamp", "model_name", "finish_reason")


def new_session_id() -> str:
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


@dataclass(slots=True)
class Transcript:
    """Messages of the user and the assistant in turn. `session_id` is the name of the autosave file."""

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
        """The title, or else the beginning of the first message without its attachments."""
        if self.title is not None:
            return self.title
        first = self.messages[0].content.strip().partition("\n\n")[0] if self.messages else ""
        words = " ".join(first.split())
        return words if len(words) <= MAX_NAME_LENGTH else f"{words[: MAX_NAME_LENGTH - 3]}..."


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
    """Returns the names of the saved conversations, newest first."""
    with contextlib.suppress(OSError):
        files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        return [file.stem for file in files]
    return []


def to_json(transcript: Transcript) -> bytes:
    """Returns the contents of a transcript file."""
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


def save(transcript: Transcript, name: str, folder: Path = FOLDER) -> Path:
    """Writes the file atomically and returns its path.

    Raises:
        TranscriptError: the name is not valid, or the file cannot be written.
    """
    path = folder / f"{checked_name(name)}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, to_json(transcript))
    except OSError as error:
        raise TranscriptError(f"{path} cannot be written: {error.strerror}.", "Nothing was saved.") from None
    return path


def load(name: str, folder: Path = FOLDER) -> Transcript:
    """Returns the conversation in `folder/name.json`, with a new session id.

    Raises:
        TranscriptError: the file does not exist or is not a saved conversation.
    """
    path = folder / f"{checked_name(name)}.json"
    document = _read(path)
    return Transcript(document.system_prompt, document.title, document.model_name, document.messages)


def _read(path: Path) -> TranscriptFile:
    data = _read_json(path)
    if isinstance(data, dict) and "format" not in data and isinstance(data.get("messages"), list):
        data = _from_messages(data, path)
    version = data.get("version") if isinstance(data, dict) and data.get("format") == FORMAT else None
    if isinstance(version, int) and version > VERSION:
        raise TranscriptError(
            f"{path} was written by a newer version of llm-serving (format {version}).", "Update llm-serving."
        )
    try:
        return TranscriptFile.model_validate(data)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"])) or "contents"
        raise TranscriptError(f"{path} is not a saved conversation (invalid {field}).") from None


def _from_messages(data: Mapping[str, Any], path: Path) -> dict[str, Any]:  # Any: JSON, validated afterwards
    """Converts an object with `messages` to version 1. The first system message becomes the system prompt."""
    messages = [message for message in data["messages"] if isinstance(message, dict)]
    system = [message.get("content") for message in messages if message.get("role") == "system"]
    others = [message for message in messages if message.get("role") != "system"]
    return {
        "format": FORMAT,
        "version": VERSION,
        "saved_at": datetime.fromtimestamp(path.stat().st_mtime, UTC),
        "title": data.get("title"),
        "system_prompt": data.get("system_prompt") or (system[0] if system else ""),
        "model_name": data.get("model_name"),
        "messages": [{key: message[key] for key in _OWN_FIELDS if key in message} for message in others],
    }


def _read_json(path: Path) -> object:
    try:
        if not path.is_file() and path.exists():
            raise TranscriptError(f"{path} is not a regular file.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TranscriptError(f"{path} is too large (over {MAX_FILE_BYTES:,} bytes).")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        names = ", ".join(saved_names(path.parent)[:5])
        hint = f"Saved conversations: {names}." if names else "/save NAME saves this conversation."
        raise TranscriptError(f"{path} does not exist.", hint) from None
    except OSError as error:
        raise TranscriptError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise TranscriptError(f"{path} is not valid JSON.") from None
