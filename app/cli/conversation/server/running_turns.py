"""Finds the turn that runs on the server in a conversation, waits for one to end, and notices new ones."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from app.cli.errors import ClientError, Refused
from app.cli.net.client import ChatClient
from app.cli.net.event_stream import StreamPosition
from app.cli.transcripts.message_tree import TreeMessage
from app.cli.transcripts.transcript_file import Transcript
from app.models.schemas import RunningTurn

ResultT = TypeVar("ResultT")

RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # while the server ends an interrupted answer
ENDED_S, ENDED_LONGEST_S = 30.0, 300.0  # between two polls for answers that have ended
RETRY_S, RETRY_LONGEST_S = 4.0, 60.0  # between two tries to read a turn that could not be read
READ_S = 5.0  # for such a try


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


async def patiently(
    request: Callable[[], Awaitable[ResultT]], is_vain: Callable[[], Awaitable[bool]] | None = None
) -> ResultT:
    """Sends a request. Repeats it while the server is ending an interrupted answer, unless that `is_vain`."""
    for attempt, delay_s in enumerate(RETRY_DELAYS_S):
        try:
            return await request()
        except Refused as error:
            if error.code != "conversation_busy" or (attempt and is_vain is not None and await is_vain()):
                raise
        await asyncio.sleep(delay_s)
    return await request()


async def has_unknown_messages(client: ChatClient, transcript: Transcript) -> bool:
    """Returns whether the server has messages of the conversation that the transcript lacks."""
    if transcript.conversation_id is None:
        return False
    try:
        held = await client.conversation(transcript.conversation_id)
    except ClientError:
        return False
    known = transcript.tree.messages
    return held.head_id is not None and any(
        message.role != "system" and message.id not in known for message in held.messages
    )


async def is_readable(client: ChatClient, turn: RunningTurn) -> bool:
    """Returns whether the server shows the events of a turn now."""
    position = StreamPosition(turn.message_id, session_id=turn.conversation_id)
    try:
        async with asyncio.timeout(READ_S):
            await client.conversation(turn.conversation_id)
            async with aclosing(client.turn_events(position)) as events:
                await anext(events)
    except (ClientError, TimeoutError):
        return False
    return True


class Backoff:
    """Says when to try something again. The delay doubles with each try, up to `longest_s`."""

    def __init__(self, first_s: float, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._delay_s = first_s
        self._longest_s = longest_s
        self._clock = clock
        self._due_at = clock() + first_s

    def is_due(self) -> bool:
        """Returns whether the time has come. If so, the next one is later."""
        if self._clock() < self._due_at:
            return False
        self._delay_s = min(2 * self._delay_s, self._longest_s)
        self._due_at = self._clock() + self._delay_s
        return True


class ConversationWatch:
    """Notices that another client asks in a conversation, or has asked there.

    It looks for answers that have ended less and less often, because those requests count against the limit
    of an API key. A turn that was announced and still runs could not be shown: it is announced once more when
    it can be read.
    """

    def __init__(self, client: ChatClient, ended_s: float = ENDED_S, retry_s: float = RETRY_S) -> None:
        """`ended_s` and `retry_s` are the first delays before a look for answers that have ended, and before
        a turn that could not be read is tried again."""
        self._client = client
        self._ended_s = ended_s
        self._retry_s = retry_s
        self._found: str | None = None  # the running turn that is the news
        self._announced: str | None = None  # the last one that was announced
        self._goes_on = False  # the last prompt ended with an announcement
        self._retry = Backoff(retry_s, RETRY_LONGEST_S)
        self._ended = Backoff(ended_s, ENDED_LONGEST_S)

    def begin(self, transcript: Transcript) -> None:
        """Watches a conversation from now on."""
        self._transcript = transcript
        self._found = None
        if not self._goes_on:
            self._ended = Backoff(self._ended_s, ENDED_LONGEST_S)
        self._goes_on = False

    async def has_news(self) -> bool:
        running = await running_turns(self._client, self._transcript.conversation_id)
        turn = turn_elsewhere(running, self._transcript)
        self._found = None if turn is None else turn.message_id
        if turn is None:
            return self._ended.is_due() and await has_unknown_messages(self._client, self._transcript)
        if turn.message_id != self._announced:
            return True
        return self._retry.is_due() and await is_readable(self._client, turn)

    def announce(self) -> bool:
        """Declares the news announced. Returns whether it is a turn that could not be read before."""
        is_again = self._found is not None and self._found == self._announced
        if not is_again:
            self._retry = Backoff(self._retry_s, RETRY_LONGEST_S)
        self._announced, self._goes_on = self._found, True
        return is_again
