"""Defines the lines of an export: each is one conversation with all its branches, as JSON.

docs/operations.md describes them to users.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from app.core.literals import Role
from app.models.conversation import Conversation, Message, ReplyFacts
from app.models.schemas.parts import MessagePart
from app.models.schemas.wire import WireModel

FORMAT: Literal["llm-server-conversation"] = "llm-server-conversation"
VERSION: Literal[1] = 1

_Id = Annotated[str, Field(pattern=r"^[!-~]{1,100}$")]
_Owner = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class DamagedLine(ValueError):
    """A line is not a conversation of an export. The message has the reason, in one line."""


@dataclass(frozen=True, slots=True)
class ArchivedConversation:
    """A conversation and its messages, in the order of their commits."""

    conversation: Conversation
    messages: tuple[Message, ...]


class MessageRecord(WireModel, extra="forbid"):
    id: _Id
    parent_id: _Id | None
    role: Role
    parts: list[MessagePart]
    timestamp: AwareDatetime
    reply: ReplyFacts | None = None


class ConversationRecord(WireModel, extra="forbid"):
    format: Literal["llm-server-conversation"]
    version: Literal[1]
    id: _Id
    owner: _Owner
    title: str | None
    system_prompt: str
    model_name: str | None
    head_id: _Id | None
    preview: str
    metadata: dict[str, str] = Field(default_factory=dict)
    deleted_replies: list[_Id] = Field(default_factory=list)
    created_at: AwareDatetime
    updated_at: AwareDatetime
    messages: list[MessageRecord]

    @model_validator(mode="after")
    def _is_a_tree(self) -> Self:
        seen: set[str] = set()
        for message in self.messages:
            if message.parent_id is not None and message.parent_id not in seen:
                raise ValueError(f"the parent of message {message.id} is missing, or comes after it")
            if message.id in seen:
                raise ValueError(f"message {message.id} is there twice")
            seen.add(message.id)
        if self.head_id is not None and self.head_id not in seen:
            raise ValueError("the head is not one of its messages")
        return self


def to_line(conversation: Conversation, messages: Sequence[Message]) -> str:
    """Returns the conversation as a line, without a newline."""
    record = ConversationRecord(
        format=FORMAT,
        version=VERSION,
        id=conversation.id,
        owner=conversation.owner,
        title=conversation.title,
        system_prompt=conversation.system_prompt,
        model_name=conversation.model_name,
        head_id=conversation.head_id,
        preview=conversation.preview,
        metadata=dict(conversation.metadata),
        deleted_replies=list(conversation.deleted_replies),
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
        messages=[_to_record(message) for message in messages],
    )
    return record.model_dump_json()


def from_line(line: str | bytes) -> ArchivedConversation:
    """Returns the conversation of a line.

    Raises:
        DamagedLine: it is not a line of an export, or its messages are not a tree.
    """
    try:
        record = ConversationRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise DamagedLine(f"{place}: {reason}" if place else reason) from None
    messages = tuple(_with_depths(record.messages))
    heads = {message.id: message for message in messages}
    return ArchivedConversation(
        Conversation(
            id=record.id,
            owner=record.owner,
            title=record.title,
            system_prompt=record.system_prompt,
            model_name=record.model_name,
            head_id=record.head_id,
            message_count=0 if record.head_id is None else heads[record.head_id].depth,
            messages_bytes=sum(message.size_bytes for message in messages),
            preview=record.preview,
            metadata=record.metadata,
            deleted_replies=tuple(record.deleted_replies),
            created_at=record.created_at,
            updated_at=record.updated_at,
        ),
        messages,
    )


def _to_record(message: Message) -> MessageRecord:
    return MessageRecord(
        id=message.id,
        parent_id=message.parent_id,
        role=message.role,
        parts=list(message.parts),
        timestamp=message.timestamp,
        reply=message.reply,
    )


def _with_depths(records: Iterable[MessageRecord]) -> Iterable[Message]:
    depths: dict[str | None, int] = {None: 0}
    for record in records:
        depths[record.id] = depths[record.parent_id] + 1
        yield Message(
            record.role,
            tuple(record.parts),
            parent_id=record.parent_id,
            depth=depths[record.id],
            id=record.id,
            timestamp=record.timestamp,
            reply=record.reply,
        )
