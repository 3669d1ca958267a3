"""Adds items to stored conversations, finds them and removes them."""

from app.api.openai.conversations.wire import (
    AddedItems,
    ConversationBody,
    NewConversation,
    conversation_body,
)
from app.api.openai.responses.ids import item_place, system_item_id
from app.api.openai.responses.items import Item, ItemList, branch_items, items_of
from app.api.openai.responses.pages import item_list
from app.api.openai.responses.translation import messages_of, split_system
from app.core.errors import InvalidRequest, ItemNotFound
from app.models.branches import StoredBranch
from app.services import Services


async def begin(
    services: Services, owner: str, request: NewConversation, chosen_id: str | None
) -> ConversationBody:
    """Stores a new conversation. System messages at its beginning become its system prompt."""
    system_prompt, messages = split_system(messages_of(request.items or (), "items"))
    made = await services.branches.begin(owner, system_prompt, messages, request.metadata or {}, chosen_id)
    return conversation_body(made.conversation)


async def add_items(services: Services, owner: str, conversation_id: str, request: AddedItems) -> ItemList:
    """Adds the items, and returns them as they are stored."""
    messages = messages_of(request.items, "items")
    return item_list(items_of((await services.branches.add(owner, conversation_id, messages)).messages))


def item_of(branch: StoredBranch, item_id: str) -> Item:
    """Returns the item. Raises ItemNotFound if the branch has none with this id."""
    for item in branch_items(branch):
        if item.id == item_id:
            return item
    raise ItemNotFound("The conversation has no item with this id.")


async def remove_item(services: Services, owner: str, conversation_id: str, item_id: str) -> ConversationBody:
    """Makes a branch without the item the current one.

    Raises:
        ConversationNotFound, ConversationBusy, ItemNotFound.
        InvalidRequest: the item is the system prompt.
    """
    item = item_of(await services.branches.read(owner, conversation_id), item_id)
    if item.id == system_item_id(conversation_id):
        raise InvalidRequest("item_id: the system prompt of a conversation cannot be deleted.")
    message_id, part = item_place(item_id)
    is_message = item.type == "message" and item.role != "assistant"
    changed = await services.branches.remove(owner, conversation_id, message_id, None if is_message else part)
    return conversation_body(changed)
