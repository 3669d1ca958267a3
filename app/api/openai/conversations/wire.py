"""Defines the requests and replies of /v1/conversations."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.api.openai.responses.requests import RequestItem
from app.api.openai.wire import LenientRequest
from app.models.conversation import Conversation
from app.models.schemas import Metadata

NewItems = Annotated[list[RequestItem], Field(max_length=1_000)]


class NewConversation(LenientRequest):
    items: NewItems | None = None
    metadata: Metadata | None = None


class ConversationUpdate(LenientRequest):
    metadata: Metadata | None  # required, as in OpenAI's API; null removes it


class AddedItems(LenientRequest):
    items: NewItems


class ConversationBody(BaseModel):
    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]


class DeletedConversation(BaseModel):
    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: bool = True


def conversation_body(conversation: Conversation) -> ConversationBody:
    return ConversationBody(
        id=conversation.id,
        created_at=int(conversation.created_at.timestamp()),
        metadata=dict(conversation.metadata),
    )
