"""A conversation as the client keeps it, and the JSON files that /save and the autosave write.

A file has `format` and `version` (see below), `saved_at`, `title`, `system_prompt`, `model_name` (of the last
answer), `messages` and `head_id`. The messages are those of all branches, parents before their children, each
with id, parent_id, role, content, parts (if it is more than one text) and the facts about the answer, and
`head_id` is the last one of the current branch. Autosaved files also have the server's `conversation_id`. The
mode of a file is 0600. Version 1 had one branch, without ids. A file without `format`, such as the server's
JSON of a conversation, can be loaded if it has `messages`.
"""

import contextlib
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from app.cli.errors import TranscriptError
from app.cli.files import checked_name, write_atomically
from app.cli.transcripts.foreign_files import from_first_version, from_messages
from app.cli.transcripts.message_tree import ConversationTree, TreeMessage, fault

FORMAT = "llm-serving conversation"
VERSION = 2
FOLDER = Path("conversations")
MAX_FILE_BYTES = 64_000_000
MAX_NAME_LENGTH = 60  # characters, for a conversation without a title


def new_session_id() -> str:
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


@dataclass(slots=True)
class Transcript:
    """A conversation with all its branches.

    `session_id` is the name of the autosave file, and `conversation_id` the server's id; None if the server
    has no copy.
    """

    system_prompt: str = ""
    title: str | None = None
    model_name: str | None = None
    tree: ConversationTree = field(default_factory=ConversationTree)
    session_id: str = field(default_factory=new_session_id, compare=False)
    conversation_id: str | None = field(default=None, compare=False)

    @property
    def messages(self) -> list[TreeMessage]:
        """The messages of the current branch. Do not change the list."""
        return self.tree.branch

    @property
    def turns(self) -> int:
        return sum(message.role == "user" for message in self.messages)

    @property
    def name(self) -> str:
        """The title, or else the beginning of the first message without its attachments."""
        if self.title is not None:
            return self.title
        messages = self.messages or list(self.tree.messages.values())
        first = messages[0].content.strip().partition("\n\n")[0] if messages else ""
        words = " ".join(first.split())
        return words if len(words) <= MAX_NAME_LENGTH else f"{words[: MAX_NAME_LENGTH - 3]}..."


class TranscriptFile(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=(), defer_build=True)

    format: Literal["llm-serving conversation"]
    version: Literal[2]
    saved_at: datetime
    conversation_id: str | None = None  # early in the file, where `session_ids` finds it
    title: str | None = None
    system_prompt: str = ""
    model_name: str | None = None
    head_id: str | None = None
    messages: list[TreeMessage]

    @model_validator(mode="after")
    def _is_a_tree(self) -> "TranscriptFile":
        if (problem := fault(self.messages, self.head_id)) is not None:
            raise ValueError(problem)
        return self


def saved_names(folder: Path = FOLDER) -> list[str]:
    """Returns the names of the saved conversations, newest first."""
    with contextlib.suppress(OSError):
        files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        return [file.stem for file in files]
    return []


def to_json(transcript: Transcript, has_conversation_id: bool = False) -> bytes:
    """Returns the contents of a transcript file.

    The server's id of the conversation is left out unless asked for, because anyone who has it can read and
    continue the conversation on a server without keys.
    """
    document = TranscriptFile(
        format=FORMAT,
        version=VERSION,
        saved_at=datetime.now(UTC),
        title=transcript.title,
        system_prompt=transcript.system_prompt,
        model_name=transcript.model_name,
        conversation_id=transcript.conversation_id if has_conversation_id else None,
        head_id=transcript.tree.head_id,
        messages=list(transcript.tree.messages.values()),
    )
    return document.model_dump_json(indent=2, exclude_none=True).encode()


def save(transcript: Transcript, name: str, folder: Path = FOLDER, has_conversation_id: bool = False) -> Path:
    """Writes the file atomically and returns its path.

    Raises:
        TranscriptError: the name is not valid, or the file cannot be written.
    """
    path = folder / f"{checked_name(name)}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, to_json(transcript, has_conversation_id))
    except OSError as error:
        raise TranscriptError(f"{path} cannot be written: {error.strerror}.", "Nothing was saved.") from None
    return path


def load(name: str, folder: Path = FOLDER) -> Transcript:
    """Returns the conversation in `folder/name.json`, with a new session id.

    Raises:
        TranscriptError: the file does not exist or is not a saved conversation.
    """
    return load_file(folder / f"{checked_name(name)}.json")


def load_file(path: Path) -> Transcript:
    """Returns the conversation in any file, with a new session id.

    Raises:
        TranscriptError: as `load` does.
    """
    document = _read(path)
    return Transcript(
        document.system_prompt,
        document.title,
        document.model_name,
        ConversationTree({message.id: message for message in document.messages}, document.head_id),
        conversation_id=document.conversation_id,
    )


def _read(path: Path) -> TranscriptFile:
    data = _read_json(path)
    if isinstance(data, dict) and "format" not in data and isinstance(data.get("messages"), list):
        data = from_messages(data, VERSION, FORMAT, datetime.fromtimestamp(path.stat().st_mtime, UTC))
    version = data.get("version") if isinstance(data, dict) and data.get("format") == FORMAT else None
    if isinstance(data, dict) and version == 1:
        data = from_first_version(data, VERSION)
    if isinstance(version, int) and version > VERSION:
        raise TranscriptError(
            f"{path} was written by a newer version of llm-serving (format {version}).", "Update llm-serving."
        )
    try:
        return TranscriptFile.model_validate(data)
    except ValidationError as error:
        raise TranscriptError(f"{path} is not a saved conversation (invalid {_problem(error)}).") from None


def _problem(error: ValidationError) -> str:
    """Returns the place of the first problem, or the problem of the tree."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return place or str(first.get("ctx", {}).get("error", "contents"))


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
