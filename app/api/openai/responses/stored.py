"""Finds stored and running responses, and builds them from the stored message or from the turn's events."""

import time
from collections.abc import Iterator

from app.api.openai.responses.builder import Ending, ResponseBuilder
from app.api.openai.responses.ids import response_id, response_not_found, response_place
from app.api.openai.responses.items import Item, items_of, system_items
from app.api.openai.responses.reply import Echo, StoredEcho
from app.core.errors import ConversationNotFound, MessageNotFound, TurnNotFound
from app.models.branches import StoredBranch
from app.models.conversation import Message, ReplyFacts
from app.models.schemas import ChatResponse, StartEvent
from app.models.storage.turn_locks import busy
from app.models.turns.replay import part_events
from app.models.turns.turn_log import TurnIds, TurnSnapshot
from app.services import Services


def turn_response(ids: TurnIds) -> ResponseBuilder:
    """Returns the response of a turn, which has not begun yet."""
    stored = None if ids.echo is None else StoredEcho.model_validate_json(ids.echo)
    echo = _native_echo(None, int(time.time())) if stored is None else stored.echo
    own_id = response_id(ids.conversation_id, ids.message_id)
    return ResponseBuilder(own_id, ids.message_id, echo, ids.conversation_id)


def turn_piece(event: object) -> object:
    """Returns the event of a turn as a response takes it."""
    if not isinstance(event, ChatResponse):
        return event
    ended_at = {} if event.timestamp is None else {"ended_at": event.timestamp.timestamp()}
    return Ending(event.finish_reason, event.usage, **ended_at)


async def find_response(services: Services, owner: str, own_id: str) -> ResponseBuilder:
    """Returns the owner's response as it is now.

    Raises:
        ResponseNotFound.
    """
    snapshot = await find_turn(services, owner, own_id)
    if snapshot is None or (snapshot.has_ended and snapshot.error is None):
        return stored_response(await find_branch(services, owner, own_id))
    response = turn_response(snapshot.ids)
    for event in snapshot.events:
        read_all(response.add(turn_piece(event)))
    if snapshot.error is not None:
        read_all(response.fail(snapshot.error))
    return response


async def find_turn(services: Services, owner: str, own_id: str) -> TurnSnapshot | None:
    """Returns the turn of a response; None if it is not known any more.

    Raises:
        ResponseNotFound: no stored response has such an id.
    """
    conversation_id, message_id = response_place(own_id)
    try:
        snapshot = await services.chats.snapshot(owner, message_id)
    except TurnNotFound:
        return None
    return snapshot if snapshot.ids.conversation_id == conversation_id else None


async def find_branch(services: Services, owner: str, own_id: str) -> StoredBranch:
    """Returns the branch that ends with the response.

    Raises:
        ResponseNotFound: it is not stored, or was deleted.
        ConversationBusy: it still runs.
    """
    conversation_id, message_id = response_place(own_id)
    try:
        branch = await services.branches.read(owner, conversation_id, message_id)
    except (ConversationNotFound, MessageNotFound):
        turn = await find_turn(services, owner, own_id)
        raise (response_not_found() if turn is None or turn.has_ended else busy()) from None
    if message_id in branch.conversation.deleted_replies or branch.messages[-1].reply is None:
        raise response_not_found()
    return branch


def stored_response(branch: StoredBranch) -> ResponseBuilder:
    """Returns the response that the last message of the branch is."""
    message, conversation = branch.messages[-1], branch.conversation
    facts = message.reply or ReplyFacts()
    response = ResponseBuilder(
        response_id(conversation.id, message.id), message.id, _echo_of(message, facts), conversation.id
    )
    start = StartEvent(
        model_name=facts.model_name or "",
        model_id=facts.model_id or "",
        prompt_tokens=None,
        omitted_messages=facts.omitted_messages,
        parameters=facts.parameters,
    )
    ending = Ending(facts.finish_reason or "stop", facts.usage, message.timestamp.timestamp())
    for event in (start, *part_events(message), ending):
        read_all(response.add(event))
    return response


def begins_conversation(branch: StoredBranch) -> bool:
    """Returns whether a response without a conversation of its own began the conversation."""
    first = next(message.reply for message in branch.messages if message.reply is not None)
    return first.echo is not None and StoredEcho.model_validate_json(first.echo).begins


def response_input(branch: StoredBranch) -> list[Item]:
    """Returns the items that the request for the last message brought with it."""
    messages = list[Message]()
    for message in reversed(branch.messages[:-1]):
        if message.reply is not None:
            return items_of(messages)
        messages.insert(0, message)
    return [*system_items(branch.conversation), *items_of(messages)]


def read_all(events: Iterator[object]) -> None:
    """Makes a response that nobody streams take its next event."""
    for _ in events:
        pass


def _echo_of(message: Message, facts: ReplyFacts) -> Echo:
    if facts.echo is None:
        return _native_echo(facts.model_name, int(message.timestamp.timestamp()))
    return StoredEcho.model_validate_json(facts.echo).echo


def _native_echo(model: str | None, created_at: int) -> Echo:
    """Returns the echo of a reply that another API asked for."""
    return Echo(created_at=created_at, model=model, truncation="auto")
