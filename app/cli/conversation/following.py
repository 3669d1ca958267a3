"""Shows turns that other clients have begun, or that this one has left."""

import asyncio
import contextlib
from itertools import takewhile

from app.cli.conversation.answer import Answer, show_summary
from app.cli.conversation.running_turns import has_unknown_messages, placed, running_turns, turn_elsewhere
from app.cli.conversation.session import Session
from app.cli.errors import ClientError
from app.cli.transcripts.message_tree import TreeMessage

LOOK_S = 3.0  # for what other clients have asked, before a message is sent


async def await_running_turn(session: Session) -> None:
    """Waits for the end of the turn that runs on the server, without showing it, and takes it over."""
    turn = session.server_copy.running_turn
    if turn is None:
        return
    session.terminal.note("The last answer is still arriving on the server. Waiting for its end.")
    await session.receiver.read_to_end(turn.message_id, session.server_copy.session_id)
    await session.server_copy.take_over()
    session.changed_branch()


async def follow(session: Session) -> None:
    """Shows the answer of the turn that runs on the server, from its beginning."""
    turn = session.server_copy.running_turn
    if turn is None:
        return
    answer = session.last_answer = Answer(turn.prefix, was_prefix_shown=False)
    try:
        await session.receiver.follow(turn, session.server_copy.session_id, answer)
    finally:
        with contextlib.suppress(ClientError):  # the next request reports the problem
            await session.server_copy.take_over()
        session.changed_branch()
    show_summary(session.terminal, answer, None, session.context_length)


async def is_asked_elsewhere(session: Session) -> bool:
    """Returns whether another client asks in this conversation, or has asked there since.

    A server that does not answer soon is not waited for: the request that follows reports it.
    """
    await session.server_copy.settle()
    transcript = session.transcript
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOOK_S):
            running = await running_turns(session.client, transcript.conversation_id)
            is_running = turn_elsewhere(running, transcript) is not None
            return is_running or await has_unknown_messages(session.client, transcript)
    return False


async def catch_up(session: Session) -> list[TreeMessage]:
    """Takes over what other clients have added, and sets `running_turn` if one is asking.

    Returns the messages of the current branch that are new here.
    """
    before = session.transcript.messages
    conversation_id = session.transcript.conversation_id
    if conversation_id is None:
        return []
    await session.settled_transcript()
    running = turn_elsewhere(await running_turns(session.client, conversation_id), session.transcript)
    await session.server_copy.take_over()
    if running is not None:
        session.server_copy.running_turn = placed(running, session.transcript)
    session.changed_branch()
    if session.transcript.conversation_id != conversation_id:  # the server had lost it
        return []
    now = session.transcript.messages
    pairs = zip(before, now, strict=False)
    return now[len(list(takewhile(_are_same, pairs))) :]


def _are_same(pair: tuple[TreeMessage, TreeMessage]) -> bool:
    ours, theirs = pair
    if not ours.is_local:
        return ours.id == theirs.id
    return ours.role == theirs.role and theirs.content.startswith(ours.content.rstrip())
