"""Converts older transcript files, and other programs' objects with `messages`, to the current version.

The results are validated afterwards, like a file of the current version.
"""

from collections.abc import Mapping
from typing import Any  # JSON

_FIRST_FIELDS = ("role", "content", "timestamp", "model_name", "finish_reason")  # of version 1
_FACTS = (*_FIRST_FIELDS, "parts", "usage")


def from_first_version(data: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Converts version 1, which had one branch without ids."""
    messages = data.get("messages")
    if not isinstance(messages, list):
        return {**data, "version": version}
    return {**data, "version": version, **_as_branch([_kept(message, _FIRST_FIELDS) for message in messages])}


def from_messages(data: Mapping[str, Any], version: int, form: str, saved_at: object) -> dict[str, Any]:
    """Converts an object with `messages` and no format.

    The first system message becomes the system prompt. The server's own JSON of a conversation, also with all
    branches, keeps its tree.
    """
    messages = [message for message in data["messages"] if isinstance(message, dict)]
    system = [message.get("content") for message in messages if message.get("role") == "system"]
    others = [message for message in messages if message.get("role") != "system"]
    return {
        "format": form,
        "version": version,
        "saved_at": saved_at,
        "title": data.get("title"),
        "system_prompt": data.get("system_prompt") or (system[0] if system else ""),
        "model_name": data.get("model_name"),
        **(_as_tree(others, data["head_id"]) if data.get("head_id") else _as_branch(others)),
    }


def _as_tree(messages: list[dict[str, Any]], head_id: object) -> dict[str, Any]:
    return {"head_id": head_id, "messages": [_kept(m, ("id", "parent_id", *_FACTS)) for m in messages]}


def _as_branch(messages: list[Any]) -> dict[str, Any]:
    """Chains the messages. Their ids are made anew, because a conversation gets other ones on the server."""
    chained = [
        {**_kept(message, _FACTS), "id": _id(number), "parent_id": _id(number - 1)}
        for number, message in enumerate(messages, 1)
    ]
    return {"messages": chained, "head_id": _id(len(chained))}


def _id(number: int) -> str | None:
    return f"local_{number}" if number else None


def _kept(message: object, fields: tuple[str, ...]) -> dict[str, Any]:
    """Returns the message's known fields. Text parts in the place of a text are joined."""
    if not isinstance(message, dict):
        return {}
    kept = {key: message[key] for key in fields if key in message}
    if isinstance(content := kept.get("content"), list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if all(isinstance(text, str) for text in texts):
            kept["content"] = "".join(map(str, texts))
    return kept
