"""Defines the replies about stored conversations, and about the turns that run in them."""

from datetime import datetime

from pydantic import Field

from app.core.literals import FinishReason, Role
from app.models.schemas.parts import MessagePart
from app.models.schemas.replies import Parameters, Timings, Usage
from app.models.schemas.wire import WireModel


class NewChatResponse(WireModel):
    conversation_id: str
    message: str = "New conversation started"
    title: str | None
    system_prompt: str
    model_name: str | None = Field(
        description="The model that answers next; null if there is no current model."
    )
    message_count: int
    created_at: datetime


class ConversationMessage(WireModel):
    id: str
    parent_id: str | None = Field(None, description="null for the first message of a conversation.")
    role: Role
    content: str = Field(description="The text, without thinking and tool calls.")
    parts: list[MessagePart] = Field(default_factory=list, description="All of the message, in order.")
    siblings: list[str] = Field(
        default_factory=list,
        description="The ids of all messages with the same parent, this one among them, the oldest first.",
    )
    position: int = Field(1, description="The place of this message among its siblings, from 1 on.")
    timestamp: datetime
    model_name: str | None = None
    model_id: str | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    parameters: Parameters | None = None


class ConversationResponse(WireModel):
    conversation_id: str
    title: str | None
    system_prompt: str
    model_name: str | None = Field(
        description="The model that answers in this conversation; null means the current one."
    )
    metadata: dict[str, str] = Field(default_factory=dict)
    created_at: datetime
    updated_at: datetime
    head_id: str | None = Field(None, description="The last message of the current branch.")
    message_count: int = Field(description="The number of messages in the current branch.")
    messages: list[ConversationMessage]


class ConversationSummary(WireModel):
    conversation_id: str
    title: str | None
    created_at: datetime
    updated_at: datetime
    message_count: int
    preview: str = Field(description="The beginning of the first user message.")


class ConversationListResponse(WireModel):
    conversations: list[ConversationSummary]
    total: int | None = Field(description="null if a search in a database finds more than 5,000.")
    limit: int
    offset: int
    next_cursor: str | None = Field(None, description="Continues the list after this page; null at its end.")


class DeletedResponse(WireModel):
    conversation_id: str
    message: str = "Conversation deleted"


class DeletedAllResponse(WireModel):
    deleted: int = Field(description="Conversations that were removed.")
    kept: int = Field(description="Conversations that are left, because they are in the middle of a turn.")


class RunningTurn(WireModel):
    """A turn that runs: where in its conversation it is, and the question that is not stored yet."""

    message_id: str
    conversation_id: str
    conversation: ConversationSummary = Field(
        description="Its entry in the list, without this turn. A new conversation is not listed yet."
    )
    parent_id: str | None = Field(description="The last stored message that the turn follows.")
    question: str | None = Field(
        description="The new user message; of a long one its beginning and `…`. null: an old one is answered."
    )
    continues: str | None = Field(description="The id of the reply that the turn continues, if it does.")


class RunningTurnsResponse(WireModel):
    turns: list[RunningTurn]


class UndoResponse(WireModel):
    conversation_id: str
    removed_messages: int = Field(description="The number of messages that left the current branch.")
    message_count: int
    head_id: str | None = None


class SelectResponse(WireModel):
    conversation_id: str
    head_id: str = Field(description="The last message of the branch, which is now the current one.")
    message_count: int
