"""Routes for turns: answer a message, regenerate, edit, continue, and follow or stop a turn that runs."""

from typing import Annotated

from fastapi import APIRouter, Response

from app.api import examples
from app.api.body import ParsedRoute
from app.api.dependencies import (
    AfterParam,
    ChosenId,
    ConversationId,
    DeadlineDep,
    KeyDep,
    LastEventId,
    OnlyHere,
    OwnerDep,
    ServicesDep,
    TurnId,
)
from app.api.docs import EVENTS, REPLIES, STREAMS_TURN, fails_with
from app.api.native.events import encode
from app.api.paths import NATIVE_PREFIX
from app.api.streaming import respond
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ContinueRequest,
    EditRequest,
    RegenerateRequest,
    RunningTurnsResponse,
    StopTurnResponse,
)

router = APIRouter(prefix=NATIVE_PREFIX, route_class=ParsedRoute, tags=["Chat"])
TURN = STREAMS_TURN | REPLIES | fails_with(409)


@router.post("/chat", response_model=ChatResponse, responses=TURN)
async def chat(
    body: Annotated[ChatRequest, examples.CHAT],
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
    key: KeyDep,
    chosen_id: ChosenId,
) -> Response:
    """Answers a message. Without `conversation_id` it starts a conversation, whose id is in the reply.

    A request that is sent again with the same `Idempotency-Key` within a day gets the same reply."""
    events = await services.chats.chat(owner, body, deadline, key, chosen_id=chosen_id)
    return respond(events, body.stream, encode, deadline)


@router.post("/chat/conversation/{conversation_id}/regenerate", response_model=ChatResponse, responses=TURN)
async def regenerate(
    conversation_id: ConversationId,
    body: Annotated[RegenerateRequest, examples.REGENERATE],
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
) -> Response:
    """Answers a user message again. The old reply stays, as another version. The body is optional."""
    events = await services.chats.regenerate(owner, conversation_id, body, deadline)
    return respond(events, body.stream, encode, deadline)


@router.post("/chat/conversation/{conversation_id}/edit", response_model=ChatResponse, responses=TURN)
async def edit(
    conversation_id: ConversationId,
    body: Annotated[EditRequest, examples.EDIT],
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
) -> Response:
    """Answers a changed question, stored beside the old one. The old question and its replies stay."""
    events = await services.chats.edit(owner, conversation_id, body, deadline)
    return respond(events, body.stream, encode, deadline)


@router.post("/chat/conversation/{conversation_id}/continue", response_model=ChatResponse, responses=TURN)
async def continue_reply(
    conversation_id: ConversationId,
    body: Annotated[ContinueRequest, examples.CONTINUE],
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
) -> Response:
    """Continues the last reply, for example after `max_tokens` cut it off. Deltas have only the new text."""
    events = await services.chats.continue_reply(owner, conversation_id, body, deadline)
    return respond(events, body.stream, encode, deadline)


@router.get("/chat/turns")
async def running_turns(services: ServicesDep, owner: OwnerDep) -> RunningTurnsResponse:
    """Lists the caller's turns that run on this server, so that another client can follow one."""
    return services.chats.running(owner)


@router.get(
    "/chat/turns/{message_id}/events",
    response_class=Response,
    responses=EVENTS | fails_with(400, 404, 409, 422, 503, 504),
)
async def turn_events(
    message_id: TurnId,
    params: AfterParam,
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
    last_event_id: LastEventId = None,
    only_here: OnlyHere = False,
) -> Response:
    """Sends the events of a turn that follow the last one the client has read, until the turn ends.

    Of a turn that another server runs, or was running when it died, it sends what that one has stored."""
    after = params.after if last_event_id is None else last_event_id
    events = await services.chats.events(owner, message_id, after, is_here=only_here)
    return respond(events, True, encode, deadline, after=after)


@router.delete("/chat/turns/{message_id}", responses=fails_with(404, 409, 422))
async def stop_turn(
    message_id: TurnId, services: ServicesDep, owner: OwnerDep, only_here: OnlyHere = False
) -> StopTurnResponse:
    """Stops the turn if it is running, and returns the part of its reply that is kept."""
    return await services.chats.stop(owner, message_id, is_here=only_here)
