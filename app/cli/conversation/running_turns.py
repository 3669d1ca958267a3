"""Finds the turn that runs on the server in a conversation that the client opens."""

from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass

from app.cli.errors import ClientError
from app.cli.net.client import ChatClient
from app.cli.net.event_stream import StreamPosition
from app.cli.transcripts.message_tree import TreeMessage
from app.cli.transcripts.transcript_file import Transcript
from app.models.schemas import RunningTurn


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
