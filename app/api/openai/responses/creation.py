"""Begins responses, and follows those that run."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import Response

from app.api.openai.responses.builder import Ending, ResponseBuilder
from app.api.openai.responses.events import ResponseStreamEvent, encode
from app.api.openai.responses.ids import response_place
from app.api.openai.responses.reply import InputTokens, ResponseBody, StoredEcho, echo_of
from app.api.openai.responses.requests import ResponsePrompt, ResponseRequest
from app.api.openai.responses.stored import (
    begins_conversation,
    find_branch,
    find_response,
    find_turn,
    read_all,
    turn_piece,
    turn_response,
)
from app.api.openai.responses.translation import chat_request, model_input, response_sampling
from app.api.streaming import respond
from app.core.deadline import Deadline
from app.core.errors import DomainError, InvalidRequest, PreviousResponseNotFound, ResponseNotFound
from app.models.branches import StoredBranch
from app.models.chat.reply import GeneratedReply
from app.models.choices import ChoiceEvent
from app.models.conversation import new_id
from app.models.turns.keyed_turns import key_reused
from app.models.turns.turn_log import EventReader
from app.services import Services

Pieces = AsyncGenerator[object, None]  # the events of a reply, of which the last is an Ending


@dataclass(frozen=True, slots=True)
class ResponseCall:
    """A request for a response, and what came with it over HTTP. For `chosen_id` see ChatService.chat."""

    owner: str
    request: ResponseRequest
    deadline: Deadline
    key: str | None
    chosen_id: str | None


async def create(services: Services, call: ResponseCall) -> Response:
    """Returns the HTTP response to a request: a stream, or a whole response."""
    owner, request, deadline = call.owner, call.request, call.deadline
    if not request.is_stored:
        branch = await _context(services, owner, request)
        events = services.choices.generate(
            model_input(request, branch, owner),
            response_sampling(request),
            request.model,
            deadline,
            may_omit=request.truncation == "auto",
        )
        made = ResponseBuilder(new_id("resp"), new_id("msg"), echo_of(request))
        return _respond(made, _choice_pieces(events), request, deadline)
    reader = (await _begin(services, call)).unjoined()
    made = turn_response(reader.ids)
    return _respond(made, _turn_pieces(reader, bool(request.background)), request, deadline)


async def follow(
    services: Services, owner: str, own_id: str, after: int | None, deadline: Deadline
) -> Response:
    """Returns the stream of a response that runs or has just ended, after the event with that number.

    Raises:
        ResponseNotFound.
        InvalidRequest: its events are not kept any more.
    """
    turn = await find_turn(services, owner, own_id)
    if turn is None or (turn.has_ended and turn.error is None):
        await find_branch(services, owner, own_id)  # raises if it was deleted
    if turn is None:
        raise InvalidRequest("stream: the events of this response are not kept any more.")
    reader = (await services.chats.events(owner, turn.ids.message_id, 0)).unjoined()
    events = _stream(turn_response(turn.ids), _turn_pieces(reader, True))
    return respond(_after(events, -1 if after is None else after), True, encode, deadline)


async def cancel(services: Services, owner: str, own_id: str) -> ResponseBody:
    """Stops the response if it runs, and returns what there is of it.

    Raises:
        ResponseNotFound.
    """
    turn = await find_turn(services, owner, own_id)
    if turn is not None and not turn.has_ended:
        await services.chats.stop(owner, turn.ids.message_id)
    return (await find_response(services, owner, own_id)).body()


async def delete(services: Services, owner: str, own_id: str) -> None:
    """Deletes the response. The last one of a conversation that a response began deletes it, too.

    Raises:
        ResponseNotFound.
        ConversationBusy: the response still runs.
    """
    branch = await find_branch(services, owner, own_id)
    await services.branches.forget_reply(
        owner, branch.conversation.id, branch.messages[-1].id, deletes_all=begins_conversation(branch)
    )


async def count(services: Services, owner: str, request: ResponsePrompt, deadline: Deadline) -> InputTokens:
    """Counts the tokens that the prompt of a response would have."""
    branch = await _context(services, owner, request)
    counted = await services.tokens.count_input(model_input(request, branch, owner), request.model, deadline)
    return InputTokens(input_tokens=counted.tokens)


async def _begin(services: Services, call: ResponseCall) -> EventReader:
    """Begins the turn whose reply the response is.

    Raises:
        KeyReused: another request has sent this Idempotency-Key.
    """
    owner, request = call.owner, call.request
    place: tuple[str, str | None] | None = None
    if request.previous_response_id is not None:
        await _context(services, owner, request)
        place = response_place(request.previous_response_id)
    elif request.conversation_id is not None:
        place = request.conversation_id, None
    stored = StoredEcho(echo=echo_of(request), begins=place is None)
    chat = chat_request(request, place)
    echo = stored.model_dump_json()
    reader = await services.chats.chat(
        owner, chat, call.deadline, call.key, echo=echo, chosen_id=call.chosen_id
    )
    if call.key is not None and not stored.is_same_request(reader.ids.echo):
        raise key_reused()
    return reader


async def _context(services: Services, owner: str, request: ResponsePrompt) -> StoredBranch | None:
    """Returns the stored messages that the response follows; None if it begins a conversation.

    Raises:
        ConversationNotFound, PreviousResponseNotFound.
        ConversationBusy: the response before it still runs.
    """
    if request.conversation_id is not None:
        return await services.branches.read(owner, request.conversation_id)
    if request.previous_response_id is None:
        return None
    try:
        return await find_branch(services, owner, request.previous_response_id)
    except ResponseNotFound:
        raise PreviousResponseNotFound("previous_response_id: no response has this id.") from None


def _respond(made: ResponseBuilder, pieces: Pieces, request: ResponseRequest, deadline: Deadline) -> Response:
    if request.stream:
        return respond(_stream(made, pieces), True, encode, deadline)
    if request.background:
        return respond(_begun(made, pieces), False, encode, deadline)
    return respond(_whole(made, pieces), False, encode, deadline)


async def _stream(made: ResponseBuilder, pieces: Pieces) -> AsyncGenerator[ResponseStreamEvent, None]:
    """Yields the events of the response. An error before the first of them is raised."""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                for event in made.add(piece):
                    yield event
    except DomainError as error:
        if not made.has_begun:
            raise
        for event in made.fail(error):
            yield event


async def _after(
    events: AsyncGenerator[ResponseStreamEvent, None], number: int
) -> AsyncGenerator[ResponseStreamEvent, None]:
    async with aclosing(events):
        async for event in events:
            if event.sequence_number > number:
                yield event


async def _whole(made: ResponseBuilder, pieces: Pieces) -> AsyncGenerator[ResponseBody, None]:
    """Yields the response once it is complete."""
    async with aclosing(pieces):
        async for piece in pieces:
            read_all(made.add(piece))
    yield made.body()


async def _begun(made: ResponseBuilder, pieces: Pieces) -> AsyncGenerator[ResponseBody, None]:
    """Yields the response as soon as it has begun to load its model, or to read its prompt."""
    async with aclosing(pieces):
        read_all(made.add(await anext(pieces)))
    yield made.body()


async def _turn_pieces(reader: EventReader, keeps_running: bool) -> Pieces:
    """Yields the events of a turn. Closing stops it, unless it `keeps_running` and has had an event."""
    has_begun = False
    try:
        async for record in reader:
            has_begun = True
            yield turn_piece(record.event)
    finally:
        if not (keeps_running and has_begun):
            await reader.aclose()


async def _choice_pieces(events: AsyncGenerator[ChoiceEvent, None]) -> Pieces:
    async with aclosing(events):
        async for _, event in events:
            if isinstance(event, GeneratedReply):
                yield Ending(event.finish_reason, event.usage)
            else:
                yield event
