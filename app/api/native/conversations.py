"""Routes for stored conversations: start, list, read, change, delete, and their branches."""

from typing import Annotated

from fastapi import APIRouter

from app.api import examples
from app.api.body import ParsedRoute
from app.api.dependencies import ChosenId, ConversationId, ListParams, OwnerDep, ServicesDep, TreeParam
from app.api.docs import TAKES_BODY, fails_with
from app.api.paths import NATIVE_PREFIX
from app.models.schemas import (
    ConversationListResponse,
    ConversationResponse,
    DeletedAllResponse,
    DeletedResponse,
    ForkConversationRequest,
    NewChatRequest,
    NewChatResponse,
    SelectRequest,
    SelectResponse,
    UndoRequest,
    UndoResponse,
    UpdateConversationRequest,
)

router = APIRouter(prefix=NATIVE_PREFIX, route_class=ParsedRoute, tags=["Chat"])
CHANGES = TAKES_BODY | fails_with(404, 409)


@router.post("/chat/new", responses=TAKES_BODY | fails_with(404, 429))
async def start_conversation(
    body: Annotated[NewChatRequest, examples.NEW_CHAT],
    services: ServicesDep,
    owner: OwnerDep,
    chosen_id: ChosenId,
) -> NewChatResponse:
    """Starts a conversation, empty or from a transcript. The body is optional."""
    return await services.conversations.new(owner, body, chosen_id)


@router.get("/chat/conversations", responses=fails_with(400, 422))
async def list_conversations(
    params: ListParams, services: ServicesDep, owner: OwnerDep
) -> ConversationListResponse:
    """Lists the stored conversations, the most recently changed first."""
    return await services.conversations.list(owner, params.page())


@router.delete("/chat/conversations", responses=fails_with(422))
async def delete_all_conversations(services: ServicesDep, owner: OwnerDep) -> DeletedAllResponse:
    """Deletes all conversations of the caller, for good, but those in the middle of a turn."""
    return await services.conversations.delete_all(owner)


@router.get("/chat/conversation/{conversation_id}", responses=fails_with(404, 422))
async def get_conversation(
    conversation_id: ConversationId, params: TreeParam, services: ServicesDep, owner: OwnerDep
) -> ConversationResponse:
    """Returns a conversation with the messages of its current branch, or of all branches."""
    return await services.conversations.get(owner, conversation_id, is_tree=params.tree)


@router.patch("/chat/conversation/{conversation_id}", responses=CHANGES)
async def update_conversation(
    conversation_id: ConversationId,
    body: Annotated[UpdateConversationRequest, examples.UPDATE],
    services: ServicesDep,
    owner: OwnerDep,
) -> ConversationResponse:
    """Changes the title or the model of a conversation."""
    return await services.conversations.update(owner, conversation_id, body)


@router.delete("/chat/conversation/{conversation_id}", responses=fails_with(404, 409, 422))
async def delete_conversation(
    conversation_id: ConversationId, services: ServicesDep, owner: OwnerDep
) -> DeletedResponse:
    """Deletes a conversation with all its branches, for good."""
    return await services.conversations.delete(owner, conversation_id)


@router.post("/chat/conversation/{conversation_id}/undo", responses=CHANGES)
async def undo(
    conversation_id: ConversationId,
    body: Annotated[UndoRequest, examples.UNDO],
    services: ServicesDep,
    owner: OwnerDep,
) -> UndoResponse:
    """Takes the last turn, or the last `turns`, out of the current branch.

    They stay stored, and `select` brings them back."""
    return await services.conversations.undo(owner, conversation_id, body)


@router.post("/chat/conversation/{conversation_id}/select", responses=CHANGES)
async def select_branch(
    conversation_id: ConversationId,
    body: Annotated[SelectRequest, examples.SELECT],
    services: ServicesDep,
    owner: OwnerDep,
) -> SelectResponse:
    """Makes the branch of a message the current one, up to the newest message below it."""
    return await services.conversations.select(owner, conversation_id, body)


@router.post("/chat/conversation/{conversation_id}/fork", responses=CHANGES | fails_with(429))
async def fork_conversation(
    conversation_id: ConversationId,
    body: Annotated[ForkConversationRequest, examples.FORK],
    services: ServicesDep,
    owner: OwnerDep,
) -> NewChatResponse:
    """Copies a branch into a new conversation. The body is optional."""
    return await services.conversations.fork(owner, conversation_id, body)
