"""Lists, searches, loads and deletes the autosaved conversations."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from app.cli.errors import TranscriptError
from app.cli.transcripts.transcript_file import Transcript, load

DEFAULT_LIMIT = 20
_BEGINNING = 1000  # bytes of a file, in which its conversation_id is
_CONVERSATION_ID = re.compile(rb'"conversation_id": "([^"\\]+)"')


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """An autosaved conversation, without its messages."""

    session_id: str
    name: str
    changed_at: float  # seconds since the epoch
    model_name: str | None
    turns: int
    messages: int = 0  # of the current branch
    conversation_id: str | None = None  # on the server


def recent_sessions(folder: Path, query: str = "", limit: int = DEFAULT_LIMIT) -> list[SessionSummary]:
    """Returns the conversations, newest first; with a query only the matching ones, best match first.

    Empty conversations and files of another format are left out.
    """
    found: list[tuple[int, SessionSummary]] = []
    for path in _newest_first(folder):
        summary = _summary(path)
        distance = None if summary is None else _distance(query, f"{summary.name} {summary.model_name or ''}")
        if summary is not None and distance is not None:
            found.append((distance, summary))
        if not query and len(found) == limit:
            break
    return [summary for _, summary in sorted(found, key=lambda pair: pair[0])][:limit]


def summary_of(session_id: str, folder: Path) -> SessionSummary | None:
    """Returns the conversation with this id; None if it cannot be read, or is empty."""
    return _summary(folder / f"{session_id}.json")


def session_ids(folder: Path) -> dict[str, str]:
    """Returns the session ids of the conversations that were on a server, by their ids there.

    Reads only the beginnings of the files.
    """
    found: dict[str, str] = {}
    for path in reversed(_newest_first(folder)):
        with contextlib.suppress(OSError), path.open("rb") as file:
            match = _CONVERSATION_ID.search(file.read(_BEGINNING))
            if match is not None:
                found[match[1].decode(errors="replace")] = path.stem
    return found


def load_session(session_id: str, folder: Path) -> Transcript:
    """Returns the conversation, which will be saved under the same id.

    Raises:
        TranscriptError: it does not exist or cannot be read.
    """
    transcript = load(session_id, folder)
    transcript.session_id = session_id
    return transcript


def delete_session(session_id: str, folder: Path) -> None:
    """Deletes the conversation if it exists.

    Raises:
        TranscriptError: the file cannot be deleted.
    """
    try:
        (folder / f"{session_id}.json").unlink(missing_ok=True)
    except OSError as error:
        raise TranscriptError(f"The conversation cannot be deleted: {error.strerror}.") from None


def delete_sessions(folder: Path) -> int:
    """Deletes all conversations, also files that cannot be read. Returns how many there were.

    Raises:
        TranscriptError: a file cannot be deleted.
    """
    paths = _newest_first(folder)
    for path in paths:
        delete_session(path.stem, folder)
    return len(paths)


def _newest_first(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return []


def _summary(path: Path) -> SessionSummary | None:
    with contextlib.suppress(TranscriptError, OSError):
        transcript = load(path.stem, path.parent)
        if transcript.tree.messages:
            changed_at = path.stat().st_mtime
            return SessionSummary(
                path.stem,
                transcript.name,
                changed_at,
                transcript.model_name,
                transcript.turns,
                len(transcript.messages),
                transcript.conversation_id,
            )
    return None


def _distance(query: str, text: str) -> int | None:
    """Returns the length of the shortest part of the text that contains the query's letters in order.

    Returns None if no part does.
    """
    letters = ".*?".join(map(re.escape, query.lower()))
    return min((len(match[1]) for match in re.finditer(f"(?=({letters}))", text.lower())), default=None)
