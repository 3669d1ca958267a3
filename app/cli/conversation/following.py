"""Shows turns that other clients have begun, or that this one has left."""

import contextlib
from dataclasses import dataclass
from itertools import takewhile

from app.cli.conversation.answer import Answer, show_summary
from app.cli.conversation.server.running_turns import placed, running_turns, turn_elsewhere
from app.cli.conversation.session import Session
from app.cli.errors import ClientError
from app.cli.transcripts.message_tree import ConversationTree, TreeMessage

OVERTAKEN = ("head_changed", "conversation_busy")  # refusals because of what another client asks or did


@dataclass(frozen=True, slots=True)
class Changes:
    """What other clients have changed: the messages of the current branch that are new here, and whether
    they have left those that were at its end, for another branch or an earlier message."""

    new: list[TreeMessage]
    has_left: bool = False


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


async def catch_up(session: Session) -> Changes:
    """Takes over what other clients have changed, and sets `running_turn` if one is asking."""
    before = session.transcript.tree
    conversation_id = session.transcript.conversation_id
    if conversation_id is None:
        return Changes([])
    await session.settled_transcript()
    running = turn_elsewhere(await running_turns(session.client, conversation_id), session.transcript)
    await session.server_copy.take_over()
    if running is not None:
        session.server_copy.running_turn = placed(running, session.transcript)
    session.changed_branch()
    if session.transcript.conversation_id != conversation_id:  # the server had lost it
        return Changes([])
    return _changes(before, session.transcript.messages)


def _changes(before: ConversationTree, now: list[TreeMessage]) -> Changes:
    shared = len(list(takewhile(_are_same, zip(before.branch, now, strict=False))))
    new = now[shared:]
    is_known = all(message.id in before.messages for message in new)
    return Changes(new, has_left=is_known and shared < len(before.branch))


def _are_same(pair: tuple[TreeMessage, TreeMessage]) -> bool:
    ours, theirs = pair
    if not ours.is_local:
        return ours.id == theirs.id
    return ours.role == theirs.role and theirs.content.startswith(ours.content.rstrip())
