"""Routes for stored conversations: start, list, read, delete, undo."""

from typing import Annotated

from fastapi import APIRouter

from app.api import examples
from app.api.body import ParsedRoute
from app.api.dependencies import PREFIX, ConversationId, PageParams, ServicesDep
from app.api.docs import TAKES_BODY, fails_with
from app.models.schemas import (
    ConversationListResponse,
    ConversationResponse,
    DeletedResponse,
    NewChatRequest,
    NewChatResponse,
    UndoRequest,
    UndoResponse,
)

router = APIRouter(prefix=PREFIX, route_class=ParsedRoute, tags=["Chat"])


@router.post("/chat/new", responses=TAKES_BODY | fails_with(404, 429))
async def start_conversation(
    body: Annotated[NewChatRequest, examples.NEW_CHAT], services: ServicesDep
) -> NewChatResponse:
    """Starts a conversation, empty or from a transcript. The body is optional."""
    return await services.chats.new(body)


@router.get("/chat/conversations", responses=fails_with(422))
async def list_conversations(page: PageParams, services: ServicesDep) -> ConversationListResponse:
    """Lists the stored conversations, the most recently used first."""
    return await services.chats.list(page.limit, page.offset)


@router.get("/chat/conversation/{conversation_id}", responses=fails_with(404, 422))
async def get_conversation(conversation_id: ConversationId, services: ServicesDep) -> ConversationResponse:
    """Returns a conversation with all its messages."""
    return await services.chats.get(conversation_id)


@router.delete("/chat/conversation/{conversation_id}", responses=fails_with(404, 409, 422))
async def delete_conversation(conversation_id: ConversationId, services: ServicesDep) -> DeletedResponse:
    """Deletes a conversation for good."""
    return await services.chats.delete(conversation_id)


@router.post("/chat/conversation/{conversation_id}/undo", responses=TAKES_BODY | fails_with(404, 409))
async def undo(
    conversation_id: ConversationId, body: Annotated[UndoRequest, examples.UNDO], services: ServicesDep
) -> UndoResponse:
    """Removes the last `turns` user messages with their replies. Without a body it removes one turn."""
    return await services.chats.undo(conversation_id, body.turns)
