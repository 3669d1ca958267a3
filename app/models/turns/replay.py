"""Makes the events of a turn from its stored reply, for those who read the turn after its end."""

from collections.abc import Iterator

from app.models.conversation import Message, ReplyFacts
from app.models.schemas import (
    DeltaEvent,
    StartEvent,
    TextPart,
    ThinkingEvent,
    ThinkingPart,
    ToolCallEvent,
    ToolCallPart,
)
from app.models.storage.store import ConversationStore
from app.models.turns.turn_log import TurnEvent, TurnLog
from app.models.turns.turn_reply import to_response


async def stored_log(store: ConversationStore, owner: str, conversation_id: str, message_id: str) -> TurnLog:
    """Returns the events of a turn that was committed, with each part of the reply in one piece.

    Raises:
        ConversationNotFound, MessageNotFound, StoreUnavailable.
    """
    conversation = await store.get(owner, conversation_id)
    (*_, reply) = await store.branch(conversation, message_id, turns=1)
    log = TurnLog(reply.id, conversation.id, None if reply.reply is None else reply.reply.echo)
    for event in _events_of(reply, conversation.id):
        log.add(event)
    log.finish(to_response(conversation, reply))
    return log


def _events_of(reply: Message, conversation_id: str) -> Iterator[TurnEvent]:
    yield start_of(reply, conversation_id)
    yield from part_events(reply)


def start_of(reply: Message, conversation_id: str) -> StartEvent:
    """Returns the start of the turn of a stored reply."""
    facts = reply.reply or ReplyFacts()
    return StartEvent(
        conversation_id=conversation_id,
        message_id=reply.id,
        parent_id=reply.parent_id,
        model_name=facts.model_name or "",
        model_id=facts.model_id or "",
        prompt_tokens=None if facts.usage is None else facts.usage.prompt_tokens,
        omitted_messages=facts.omitted_messages,
        parameters=facts.parameters,
    )


def part_events(reply: Message) -> Iterator[DeltaEvent | ThinkingEvent | ToolCallEvent]:
    """Yields an event for each part of a stored reply."""
    calls = 0
    for part in reply.parts:
        match part:
            case TextPart(text=text):
                yield DeltaEvent(text=text)
            case ThinkingPart(text=text):
                yield ThinkingEvent(text=text)
            case ToolCallPart(id=call_id, name=name, arguments=arguments):
                yield ToolCallEvent(index=calls, id=call_id, name=name, arguments=arguments)
                calls += 1
