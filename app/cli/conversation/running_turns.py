"""Finds the turn that runs on the server in a conversation, waits for one to end, and notices new ones."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from app.cli.errors import ClientError, Refused
from app.cli.net.client import ChatClient
from app.cli.net.event_stream import StreamPosition
from app.cli.transcripts.message_tree import TreeMessage
from app.cli.transcripts.transcript_file import Transcript
from app.models.schemas import RunningTurn

ResultT = TypeVar("ResultT")

RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # while the server ends an interrupted answer
LISTING_S = 30.0  # between two polls for answers that have ended
_LISTED = 5  # of the conversations that changed last


@dataclass(frozen=True, slots=True)
class TurnOnServer:
    """A turn that runs on the server, or has just ended there, and its question.

    `is_own` says whether a client of this machine has left it; then the transcript has what arrived of it.
    Unless it `is_running`, it has ended, or another server runs it. `prefix` is the text that it extends.
    """

    message_id: str
    is_own: bool
    is_running: bool
    question: TreeMessage | None
    prefix: str = ""


async def left_turn(
    client: ChatClient, transcript: Transcript, session_id: str, is_running: bool
) -> TurnOnServer | None:
    """Returns the turn of the last answer if it was cut off here, and the server still has its events."""
    answer = transcript.tree.last_answer
    if answer is None or answer.is_local or answer.finish_reason != "interrupted":
        return None
    position = StreamPosition(answer.id, session_id=session_id)
    try:
        async with aclosing(client.turn_events(position)) as events:
            await anext(events)
    except ClientError:
        return None
    asked = [message for message in transcript.messages if message.role == "user"]
    return TurnOnServer(answer.id, True, is_running, asked[-1] if asked else None)


async def running_turns(client: ChatClient, conversation_id: str | None) -> list[RunningTurn]:
    """Returns the turns that run in the conversation, none from an older server."""
    if conversation_id is None:
        return []
    try:
        running = await client.running_turns(conversation_id)
    except ClientError:
        return []
    return [turn for turn in running if turn.conversation_id == conversation_id]


def turn_elsewhere(running: Iterable[RunningTurn], transcript: Transcript) -> RunningTurn | None:
    """Returns the running turn of another client."""
    own = transcript.tree.last_answer
    return next((turn for turn in running if own is None or turn.message_id != own.id), None)


def placed(turn: RunningTurn, transcript: Transcript) -> TurnOnServer:
    """Returns the turn with its question, which is new or in the transcript."""
    messages = transcript.tree.messages
    question = None if turn.parent_id is None else messages.get(turn.parent_id)
    if turn.question is not None:
        question = TreeMessage(role="user", content=turn.question)
    continued = None if turn.continues is None else messages.get(turn.continues)
    return TurnOnServer(
        turn.message_id, False, True, question, "" if continued is None else continued.content
    )


async def patiently(request: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Sends a request. Repeats it while the server is ending an interrupted answer."""
    for delay_s in RETRY_DELAYS_S:
        try:
            return await request()
        except Refused as error:
            if error.code != "conversation_busy":
                raise
        await asyncio.sleep(delay_s)
    return await request()


class ConversationWatch:
    """Notices that another client asks in a conversation, or has asked there since `begin`.

    It looks for answers that have ended every `listing_s` only, because the server logs that request.
    """

    def __init__(self, client: ChatClient, transcript: Transcript, listing_s: float = LISTING_S) -> None:
        self._client = client
        self._listing_s = listing_s
        self._listed_at = 0.0
        self._transcript = transcript
        self._changed_at: datetime | None = None
        self._has_news = False

    async def begin(self) -> None:
        self._changed_at = await self._last_change()

    async def has_news(self) -> bool:
        running = await running_turns(self._client, self._transcript.conversation_id)
        if turn_elsewhere(running, self._transcript) is not None:
            return True
        if time.monotonic() >= self._listed_at + self._listing_s:
            await self._look_for_ended()
        return self._has_news

    async def _look_for_ended(self) -> None:
        changed_at = await self._last_change()
        if changed_at != self._changed_at:
            self._changed_at = changed_at
            self._has_news = await self._has_unknown_messages()

    async def _last_change(self) -> datetime | None:
        self._listed_at = time.monotonic()
        try:
            listed = await self._client.conversations("", _LISTED)
        except ClientError:
            return None
        own_id = self._transcript.conversation_id
        return next((each.updated_at for each in listed if each.conversation_id == own_id), None)

    async def _has_unknown_messages(self) -> bool:
        try:
            held = await self._client.conversation(self._transcript.conversation_id or "unknown")
        except ClientError:
            return False
        known = self._transcript.tree.messages
        return held.head_id is not None and any(
            message.role != "system" and message.id not in known for message in held.messages
        )
