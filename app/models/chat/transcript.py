"""Translates stored conversations to the wire models, and transcripts to stored messages."""

from collections.abc import Sequence

from app.core.errors import InvalidRequest
from app.models.conversation import Conversation, Message, now
from app.models.schemas import (
    ConversationMessage,
    ConversationResponse,
    ConversationSummary,
    TranscriptMessage,
)

PREVIEW_CHARACTERS = 80


def restore_messages(transcript: Sequence[TranscriptMessage]) -> tuple[Message, ...]:
    """Returns the messages of a transcript in which user and assistant take turns.

    Raises:
        InvalidRequest: user and assistant do not take turns, or the last message has no reply.
    """
    for index, message in enumerate(transcript):
        expected = ("user", "assistant")[index % 2]
        if message.role != expected:
            raise InvalidRequest(
                f"messages[{index}].role: expected {expected}, because user and assistant take turns.",
                hint="A transcript begins with the user and ends with the assistant.",
            )
    if len(transcript) % 2:
        raise InvalidRequest(
            "messages: the transcript ends with a user message that has no reply.",
            hint="Leave the message out, and send it with POST /api/v1/chat.",
        )
    return tuple(
        Message(
            message.role,
            message.content,
            timestamp=message.timestamp or now(),
            model_name=message.model_name,
            finish_reason=message.finish_reason,
        )
        for message in transcript
    )


def to_wire(conversation: Conversation) -> ConversationResponse:
    """Returns the whole conversation as the API shows it."""
    return ConversationResponse(
        conversation_id=conversation.id,
        title=conversation.title,
        system_prompt=conversation.system_prompt,
        model_name=conversation.model_name,
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
        message_count=len(conversation.messages),
        messages=[_message_to_wire(message) for message in conversation.messages],
    )


def _message_to_wire(message: Message) -> ConversationMessage:
    return ConversationMessage(**{name: getattr(message, name) for name in ConversationMessage.model_fields})


def to_summary(conversation: Conversation) -> ConversationSummary:
    """Returns the conversation's entry in a list."""
    first = conversation.messages[0].content if conversation.messages else ""
    return ConversationSummary(
        conversation_id=conversation.id,
        title=conversation.title,
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
        message_count=len(conversation.messages),
        preview=" ".join(first.split())[:PREVIEW_CHARACTERS],
    )
