"""Finds the conversations that the user can continue: those on this machine and those on the server."""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.cli.errors import ClientError, Refused, TranscriptError, UsageError
from app.cli.net.client import ChatClient
from app.cli.transcripts.autosave import Autosave
from app.cli.transcripts.session_index import (
    DEFAULT_LIMIT,
    SessionSummary,
    recent_sessions,
    session_ids,
    summary_of,
)
from app.models.schemas import ConversationSummary

_MAX_DIGITS = 9  # of a number in a list
_LISTED = 100  # of a server's conversations, to see which of them this machine has


@dataclass(frozen=True, slots=True)
class KnownSession:
    """A conversation with a transcript on this machine, a copy on the server, or both."""

    local: SessionSummary | None
    remote: ConversationSummary | None

    @property
    def session_id(self) -> str | None:
        return None if self.local is None else self.local.session_id

    @property
    def conversation_id(self) -> str | None:
        """The server's id; None if the server does not list the conversation."""
        return None if self.remote is None else self.remote.conversation_id

    @property
    def name(self) -> str:
        if self.local is not None:
            return self.local.name
        return "" if self.remote is None else self.remote.title or self.remote.preview

    @property
    def changed_at(self) -> float:
        """Seconds since the epoch."""
        times = [] if self.local is None else [self.local.changed_at]
        return max([*times, *([] if self.remote is None else [self.remote.updated_at.timestamp()])])

    @property
    def messages(self) -> int:
        if self.remote is not None:
            return self.remote.message_count
        return 0 if self.local is None else self.local.messages

    @property
    def place(self) -> str:
        if self.remote is None:
            return "local"
        return "server" if self.local is None else "both"


class KnownSessions:
    """`refusal` says why the server's conversations are missing from the last search, if they are.

    The numbers that the user types refer to `listed`.
    """

    def __init__(self, client: ChatClient, autosave: Autosave) -> None:
        self._client = client
        self._autosave = autosave
        self.refusal: str | None = None
        self.listed: list[KnownSession] = []

    async def search(self, query: str = "", limit: int = DEFAULT_LIMIT) -> list[KnownSession]:
        """Returns the conversations that match, newest first, each once."""
        remote = await self._remote(query, limit)
        folder = self._autosave.folder
        if folder is None:
            return [KnownSession(None, summary) for summary in remote][:limit]
        return await asyncio.to_thread(self._merged, folder, query, limit, remote)

    async def refresh(self, query: str = "", limit: int = DEFAULT_LIMIT) -> Sequence[KnownSession]:
        """Searches, and lets numbers refer to what is found."""
        self.listed = await self.search(query, limit)
        return self.listed

    async def find(self, argument: str) -> KnownSession | None:
        """Returns the session with this number in the last list, or with this title; None if there is none.

        Raises:
            UsageError: the number is not in the list, or several titles match.
        """
        number = argument.removeprefix("#")
        if number.isdecimal():
            return await self._numbered(number)
        found = await self.search(argument)
        exact = [entry for entry in found if entry.name.lower() == argument.lower()]
        matches = exact or found
        if len(matches) > 1:
            self.listed = matches
            names = ", ".join(f"#{n} {entry.name}" for n, entry in enumerate(matches[:5], 1))
            raise UsageError(f"{argument!r} matches several conversations.", f"Choose by number: {names}.")
        return matches[0] if matches else None

    async def _numbered(self, number: str) -> KnownSession:
        listed = self.listed or await self.refresh()
        place = int(number) if len(number) <= _MAX_DIGITS else 0
        if not 0 < place <= len(listed):
            raise UsageError(f"The list has no number {number}.", "/sessions shows the list.")
        return listed[place - 1]

    async def unknown(self, own_id: str | None) -> list[ConversationSummary]:
        """Returns the server's newest conversations of which this machine has no transcript.

        `own_id` is the one that is open, which may not be saved yet.

        Raises:
            ClientError: the server does not list its conversations.
        """
        folder = self._autosave.folder
        saved = {} if folder is None else await asyncio.to_thread(session_ids, folder)
        listed = await self._client.conversations("", _LISTED)
        known = {own_id, *saved}
        return [each for each in listed if each.message_count and each.conversation_id not in known]

    async def _remote(self, query: str, limit: int) -> list[ConversationSummary]:
        self.refusal = None
        try:
            found = await self._searched(query.strip(), limit)
        except ClientError as error:
            self.refusal = error.message
            return []
        return [summary for summary in found if summary.title or summary.preview]

    async def _searched(self, query: str, limit: int) -> list[ConversationSummary]:
        """Returns what the server finds; with an older one, whose title or beginning has the words."""
        try:
            return await self._client.conversations(query, limit)
        except Refused as error:
            if error.code != "validation_error" or not query:
                raise
        words, found = query.lower().split(), await self._client.conversations("", limit)
        return [one for one in found if all(word in f"{one.title} {one.preview}".lower() for word in words)]

    def _merged(
        self, folder: Path, query: str, limit: int, remote: Iterable[ConversationSummary]
    ) -> list[KnownSession]:
        with contextlib.suppress(TranscriptError):
            self._autosave.settle()
        local = {summary.session_id: summary for summary in recent_sessions(folder, query, limit)}
        ids = session_ids(folder)
        found = []
        for summary in remote:
            session_id = ids.get(summary.conversation_id, "")
            ours = local.pop(session_id, None) or (summary_of(session_id, folder) if session_id else None)
            found.append(KnownSession(ours, summary))
        found += [KnownSession(ours, None) for ours in local.values()]
        return sorted(found, key=lambda session: session.changed_at, reverse=True)[:limit]
