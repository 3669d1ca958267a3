"""Translates stored conversations to the wire models, and transcripts to stored messages."""

from collections.abc import Iterable, Sequence

from app.core.errors import InvalidRequest
from app.models.conversation import Conversation, Message, ReplyFacts, chained, now
from app.models.schemas import (
    ConversationMessage,
    ConversationResponse,
    ConversationSummary,
    TextPart,
    TranscriptMessage,
)
from app.models.storage.tree import MessageTree


def restore_messages(transcript: Sequence[TranscriptMessage]) -> tuple[Message, ...]:
    """Returns the messages of a transcript in which user and assistant take turns, as one branch.

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
    return chained(map(_restored, transcript))


def _restored(message: TranscriptMessage) -> Message:
    reply = ReplyFacts(model_name=message.model_name, finish_reason=message.finish_reason)
    return Message(
        message.role,
        (TextPart(text=message.content),),
        timestamp=message.timestamp or now(),
        reply=reply if message.role == "assistant" else None,
    )


def to_wire(
    conversation: Conversation, tree: MessageTree, messages: Iterable[Message]
) -> ConversationResponse:
    """Returns the conversation with these of its messages as the API shows it."""
    return ConversationResponse(
        conversation_id=conversation.id,
        title=conversation.title,
        system_prompt=conversation.system_prompt,
        model_name=conversation.model_name,
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
        head_id=conversation.head_id,
        message_count=conversation.message_count,
        messages=[_message_to_wire(message, tree.siblings(message)) for message in messages],
    )


def _message_to_wire(message: Message, siblings: Sequence[str]) -> ConversationMessage:
    reply = message.reply or ReplyFacts()
    return ConversationMessage(
        id=message.id,
        parent_id=message.parent_id,
        role=message.role,
        content=message.content,
        parts=list(message.parts),
        siblings=list(siblings),
        position=siblings.index(message.id) + 1,
        timestamp=message.timestamp,
        model_name=reply.model_name,
        model_id=reply.model_id,
        finish_reason=reply.finish_reason,
        usage=reply.usage,
        timings=reply.timings,
        parameters=reply.parameters,
    )


def to_summary(conversation: Conversation) -> ConversationSummary:
    """Returns the conversation's entry in a list."""
    return ConversationSummary(
        conversation_id=conversation.id,
        title=conversation.title,
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
        message_count=conversation.message_count,
        preview=conversation.preview,
    )
