"""Owns the list of the conversations that were kept, and how one is found in it by a few letters."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from app.cli.conversation.transcript_file import Transcript, load
from app.cli.errors import TranscriptError

SHOWN = 20  # of a list that nobody searches


@dataclass(frozen=True, slots=True)
class SessionSummary:
    session_id: str
    name: str
    changed_at: float  # seconds since the epoch
    model_name: str | None
    turns: int


def recent_sessions(folder: Path, query: str = "", limit: int = SHOWN) -> list[SessionSummary]:
    """The last changed first; with a query the closest. Empty ones and other files are left out."""
    found: list[tuple[int, SessionSummary]] = []
    for path in _newest_first(folder):
        entry = _entry(path)
        distance = None if entry is None else _distance(query, f"{entry.name} {entry.model_name or ''}")
        if entry is not None and distance is not None:
            found.append((distance, entry))
        if not query and len(found) == limit:
            break
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])][:limit]


def load_session(session_id: str, folder: Path) -> Transcript:
    """The conversation, to be kept in the same file as before.

    Raises:
        TranscriptError: it cannot be read.
    """
    transcript = load(session_id, folder)
    transcript.session_id = session_id
    return transcript


def delete_session(session_id: str, folder: Path) -> None:
    try:
        (folder / f"{session_id}.json").unlink(missing_ok=True)
    except OSError as error:
        raise TranscriptError(f"The conversation cannot be deleted: {error.strerror}.") from None


def _newest_first(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return []


def _entry(path: Path) -> SessionSummary | None:
    with contextlib.suppress(TranscriptError, OSError):
        transcript = load(path.stem, path.parent)
        if transcript.messages:
            changed_at = path.stat().st_mtime
            return SessionSummary(
                path.stem, transcript.name, changed_at, transcript.model_name, transcript.turns
            )
    return None


def _distance(query: str, text: str) -> int | None:
    """Over how many characters the letters of the query lie, in their order; None where they do not."""
    letters = ".*?".join(map(re.escape, query.lower()))
    return min((len(match[1]) for match in re.finditer(f"(?=({letters}))", text.lower())), default=None)
