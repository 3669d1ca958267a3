"""Names responses and items. The id of a stored one holds the ids of its conversation and its message."""

import re
from typing import Literal

from app.core.errors import ResponseNotFound

ItemKind = Literal["msg", "rs", "fc", "fco"]  # message, reasoning, function call, and the output of one

_RESPONSE = re.compile(r"resp_([0-9a-f]{32})([0-9a-f]{32})")
_ITEM = re.compile(r"(?:msg|rs|fc|fco)_([0-9a-f]{32})(?:_([1-9][0-9]{0,5}))?")


def response_id(conversation_id: str, message_id: str) -> str:
    """Returns the id of the response whose output is this message."""
    return f"resp_{_digits(conversation_id)}{_digits(message_id)}"


def response_place(response: str) -> tuple[str, str]:
    """Returns the ids of the conversation and of the message of a response.

    Raises:
        ResponseNotFound: no stored response has such an id.
    """
    found = _RESPONSE.fullmatch(response)
    if found is None:
        raise response_not_found()
    return f"conv_{found[1]}", f"msg_{found[2]}"


def item_id(kind: ItemKind, message_id: str, part: int = 0) -> str:
    """Returns the id of the item that a message is, or one of its parts."""
    return f"{kind}_{_digits(message_id)}" + (f"_{part}" if part else "")


def item_place(item: str) -> tuple[str, int]:
    """Returns the id of the item's message, and the number of the part; of an unknown item an empty id."""
    found = _ITEM.fullmatch(item)
    return ("", 0) if found is None else (f"msg_{found[1]}", int(found[2] or 0))


def system_item_id(conversation_id: str) -> str:
    """Returns the id of the item that a conversation's system prompt is."""
    return f"msg_{_digits(conversation_id)}"


def response_not_found() -> ResponseNotFound:
    return ResponseNotFound("No response has this id.", hint="It may have expired or been deleted.")


def _digits(own_id: str) -> str:
    return own_id.partition("_")[2]
