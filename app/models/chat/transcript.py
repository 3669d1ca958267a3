"""Translates stored conversations to the wire models, and the messages of requests to stored ones."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from app.core.errors import InvalidRequest
from app.models.conversation import Conversation, Message, ReplyFacts, chained, now
from app.models.schemas import (
    ConversationMessage,
    ConversationResponse,
    ConversationSummary,
    InputMessage,
    MessagePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
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


def input_messages(messages: Sequence[InputMessage]) -> tuple[Message, ...]:
    """Returns the messages of a request, without parents. Results of tools that follow each other are one.

    Raises:
        InvalidRequest: a message has a field that its role does not have, or lacks one that it needs.
    """
    found: list[Message] = []
    for index, message in enumerate(messages):
        parts = _parts_of(message, f"messages[{index}]")
        if message.role == "tool" and found and found[-1].role == "tool":
            found[-1] = replace(found[-1], parts=found[-1].parts + parts)
        else:
            found.append(Message(message.role, parts))
    return tuple(found)


def check_messages(branch: Sequence[Message]) -> None:
    """Raises InvalidRequest if no reply can follow the branch, or if it has the result of an unknown call."""
    if not branch or branch[-1].role not in ("user", "tool"):
        raise InvalidRequest("messages: the last one must be the user's or the result of a tool.")
    called = {part.id for message in branch for part in message.parts if isinstance(part, ToolCallPart)}
    for message in branch:
        for part in message.parts:
            if isinstance(part, ToolResultPart) and part.id not in called:
                raise InvalidRequest(
                    f"messages: there is the result of a call {part.id!r}, but no such call."
                )


def _parts_of(message: InputMessage, where: str) -> tuple[MessagePart, ...]:
    is_reply, is_result = message.role == "assistant", message.role == "tool"
    if (message.tool_calls or message.thinking is not None) and not is_reply:
        raise InvalidRequest(f"{where}: only the assistant calls tools and thinks.")
    if is_result != (message.tool_call_id is not None):
        raise InvalidRequest(f"{where}.tool_call_id: exactly the messages with the role `tool` have it.")
    if message.tool_call_id is not None:
        return (ToolResultPart(id=message.tool_call_id, content=message.content),)
    thinking = () if message.thinking is None else (ThinkingPart(text=message.thinking),)
    calls = tuple(message.tool_calls or ())
    text = (TextPart(text=message.content),) if message.content or not (thinking or calls) else ()
    return (*thinking, *text, *calls)


def to_wire(
    conversation: Conversation, tree: MessageTree, messages: Iterable[Message]
) -> ConversationResponse:
    """Returns the conversation with these of its messages as the API shows it."""
    return ConversationResponse(
        conversation_id=conversation.id,
        title=conversation.title,
        system_prompt=conversation.system_prompt,
        model_name=conversation.model_name,
        metadata=dict(conversation.metadata),
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
