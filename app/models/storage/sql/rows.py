"""Turns conversations and messages into rows of the database, and rows into conversations and messages."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row

from app.models.conversation import Conversation, Message, ReplyFacts
from app.models.schemas.parts import MessagePart
from app.models.storage.search import index_words
from app.models.storage.sql.tables import conversations, messages

Values = dict[str, Any]  # Any: by column

_PARTS = TypeAdapter(tuple[MessagePart, ...])
_REPLY = TypeAdapter(ReplyFacts)
_FIELDS = tuple(field.name for field in fields(Conversation))
_JSON_FIELDS = ("metadata", "deleted_replies")
CONVERSATION_COLUMNS = tuple(conversations.c[name] for name in _FIELDS)
MESSAGE_COLUMNS = tuple(
    messages.c[name] for name in ("id", "parent_id", "depth", "role", "parts", "reply", "timestamp")
)


@dataclass(frozen=True, slots=True)
class NewRows:
    """The rows of a commit, without numbers and positions, and the words of their texts."""

    conversation: Values
    messages: list[Values]
    title_words: Sequence[str]
    texts: list[Sequence[str]]


def conversation_values(conversation: Conversation) -> Values:
    """Returns the conversation's row, without its number."""
    values = {name: getattr(conversation, name) for name in _FIELDS}
    return values | {name: json.dumps(values[name]) for name in _JSON_FIELDS}


def conversation_of(row: Row[Any]) -> Conversation:  # Any: the types of the columns
    """Returns the conversation of a row with CONVERSATION_COLUMNS."""
    values = {name: row._mapping[name] for name in _FIELDS}
    metadata, deleted = (json.loads(values[name]) for name in _JSON_FIELDS)
    return Conversation(**values | {"metadata": metadata, "deleted_replies": tuple(deleted)})


def message_values(message: Message) -> Values:
    """Returns the message's row, without its conversation and position."""
    return {
        "id": message.id,
        "parent_id": message.parent_id,
        "depth": message.depth,
        "role": message.role,
        "parts": _PARTS.dump_json(message.parts).decode(),
        "reply": None if message.reply is None else _REPLY.dump_json(message.reply).decode(),
        "timestamp": message.timestamp,
    }


def messages_of(rows: Sequence[Row[Any]]) -> tuple[Message, ...]:  # Any: the types of the columns
    """Returns the messages of rows with MESSAGE_COLUMNS. For many rows, call it in a thread."""
    return tuple(map(_message_of, rows))


def _message_of(row: Row[Any]) -> Message:  # Any: the types of the columns
    values = dict(row._mapping)
    reply = values.pop("reply")
    return Message(
        **values | {"parts": _PARTS.validate_json(values["parts"])},
        reply=None if reply is None else _REPLY.validate_json(reply),
    )


def new_rows(conversation: Conversation, new_messages: Sequence[Message]) -> NewRows:
    """Returns the rows of a commit. For much text, call it in a thread."""
    return NewRows(
        conversation_values(conversation),
        [message_values(message) for message in new_messages],
        index_words(conversation.title or ""),
        [index_words(message.content) for message in new_messages],
    )
