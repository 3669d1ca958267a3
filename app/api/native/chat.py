"""Routes for replies: answer a message, regenerate a reply, edit a question, continue the last reply."""

from typing import Annotated

from fastapi import APIRouter, Response

from app.api import examples
from app.api.body import ParsedRoute
from app.api.dependencies import PREFIX, ConversationId, DeadlineDep, OwnerDep, ServicesDep
from app.api.docs import REPLIES, STREAMS_TEXT, fails_with
from app.api.native.events import encode
from app.api.streaming import respond
from app.models.schemas import ChatRequest, ChatResponse, ContinueRequest, EditRequest, RegenerateRequest

router = APIRouter(prefix=PREFIX, route_class=ParsedRoute, tags=["Chat"])
TURN = STREAMS_TEXT | REPLIES | fails_with(409)


@router.post("/chat", response_model=ChatResponse, responses=TURN)
async def chat(
    body: Annotated[ChatRequest, examples.CHAT],
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
) -> Response:
    """Answers a message. Without `conversation_id` it starts a conversation, whose id is in the reply."""
    return respond(services.chats.chat(owner, body, deadline), body.stream, encode, deadline)


@router.post("/chat/conversation/{conversation_id}/regenerate", response_model=ChatResponse, responses=TURN)
async def regenerate(
    conversation_id: ConversationId,
    body: Annotated[RegenerateRequest, examples.REGENERATE],
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
) -> Response:
    """Answers a user message again. The old reply stays, as another version. The body is optional."""
    events = services.chats.regenerate(owner, conversation_id, body, deadline)
    return respond(events, body.stream, encode, deadline)


@router.post("/chat/conversation/{conversation_id}/edit", response_model=ChatResponse, responses=TURN)
async def edit(
    conversation_id: ConversationId,
    body: Annotated[EditRequest, examples.EDIT],
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
) -> Response:
    """Asks a changed question beside an old one, and answers it. The old question stays, with its replies."""
    events = services.chats.edit(owner, conversation_id, body, deadline)
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
    events = services.chats.continue_reply(owner, conversation_id, body, deadline)
    return respond(events, body.stream, encode, deadline)
