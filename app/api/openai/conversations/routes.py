"""The routes /v1/conversations: stored conversations as OpenAI's API shows them, with messages as items."""

from fastapi import APIRouter

from app.api.body import ParsedRoute
from app.api.dependencies import ChosenId, OwnerDep, ServicesDep
from app.api.docs import fails_as
from app.api.error_formats import openai_error
from app.api.examples import ITEMS, NEW_CONVERSATION, NEW_METADATA
from app.api.openai.conversations.changes import add_items, begin, item_of, remove_item
from app.api.openai.conversations.wire import (
    AddedItems,
    ConversationBody,
    ConversationUpdate,
    DeletedConversation,
    NewConversation,
    conversation_body,
)
from app.api.openai.responses.items import Item, ItemList, branch_items
from app.api.openai.responses.pages import PageParams, page_of
from app.api.paths import OPENAI_PREFIX
from app.models.schemas import UpdateConversationRequest

router = APIRouter(
    prefix=f"{OPENAI_PREFIX}/conversations",
    route_class=ParsedRoute,
    tags=["OpenAI: conversations"],
    responses=fails_as(openai_error),
)


@router.post("")
async def create_conversation(
    services: ServicesDep, owner: OwnerDep, chosen_id: ChosenId, body: NewConversation = NEW_CONVERSATION
) -> ConversationBody:
    """Starts a conversation, empty or with items. The body is optional."""
    return await begin(services, owner, body, chosen_id)


@router.get("/{conversation_id}")
async def get_conversation(conversation_id: str, services: ServicesDep, owner: OwnerDep) -> ConversationBody:
    """Describes a conversation."""
    return conversation_body((await services.branches.read(owner, conversation_id)).conversation)


@router.post("/{conversation_id}")
async def update_conversation(
    conversation_id: str, services: ServicesDep, owner: OwnerDep, body: ConversationUpdate = NEW_METADATA
) -> ConversationBody:
    """Replaces the metadata of a conversation."""
    changes = UpdateConversationRequest(metadata=body.metadata or {})
    await services.conversations.update(owner, conversation_id, changes)
    return conversation_body((await services.branches.read(owner, conversation_id)).conversation)


@router.delete("/{conversation_id}")
async def delete_conversation(
    conversation_id: str, services: ServicesDep, owner: OwnerDep
) -> DeletedConversation:
    """Deletes a conversation with all its items, for good."""
    await services.conversations.delete(owner, conversation_id)
    return DeletedConversation(id=conversation_id)


@router.get("/{conversation_id}/items")
async def list_items(
    conversation_id: str, services: ServicesDep, owner: OwnerDep, page: PageParams
) -> ItemList:
    """Lists the items of the conversation's current branch, the last one first."""
    return page_of(branch_items(await services.branches.read(owner, conversation_id)), page)


@router.post("/{conversation_id}/items")
async def create_items(
    conversation_id: str, services: ServicesDep, owner: OwnerDep, body: AddedItems = ITEMS
) -> ItemList:
    """Adds items to the current branch, without a reply."""
    return await add_items(services, owner, conversation_id, body)


@router.get("/{conversation_id}/items/{item_id}")
async def get_item(conversation_id: str, item_id: str, services: ServicesDep, owner: OwnerDep) -> Item:
    """Returns one item of the current branch."""
    return item_of(await services.branches.read(owner, conversation_id), item_id)


@router.delete("/{conversation_id}/items/{item_id}")
async def delete_item(
    conversation_id: str, item_id: str, services: ServicesDep, owner: OwnerDep
) -> ConversationBody:
    """Makes a branch without the item the current one. The items after it get new ids."""
    return await remove_item(services, owner, conversation_id, item_id)
