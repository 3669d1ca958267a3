"""Encodes a position in a list of conversations, which is ordered by time of change and id."""

import base64
import binascii
from datetime import UTC, datetime

from app.core.errors import InvalidRequest
from app.models.conversation import Conversation


def cursor_at(conversation: Conversation) -> str:
    """Returns the cursor for what comes after this conversation."""
    position = f"{conversation.updated_at.astimezone(UTC).isoformat()} {conversation.id}"
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def position_of(cursor: str) -> tuple[datetime, str]:
    """Returns the time of change and the id that a cursor holds.

    Raises:
        InvalidRequest: it is not a cursor of `cursor_at`.
    """
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        time, conversation_id = text.split(" ")
        updated_at = datetime.fromisoformat(time)
    except (ValueError, binascii.Error):
        raise _not_a_cursor() from None
    if updated_at.tzinfo is not UTC or not (conversation_id.isascii() and conversation_id.isprintable()):
        raise _not_a_cursor()
    return updated_at, conversation_id


def _not_a_cursor() -> InvalidRequest:
    return InvalidRequest("cursor: it is not a `next_cursor` of this list.")


def after(cursor: str, conversation: Conversation) -> bool:
    """Returns whether the conversation comes after the cursor in a list that begins with the newest."""
    return (conversation.updated_at, conversation.id) < position_of(cursor)
