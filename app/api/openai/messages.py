"""Translates the messages of OpenAI's API into those of the engine."""

from collections.abc import Iterable, Sequence

from app.api.openai.chat_requests import (
    ContentPart,
    RefusalContent,
    RequestMessage,
    TextContent,
)
from app.core.errors import InvalidRequest
from app.engine.ipc.messages import ChatMessage, ToolCall
from app.models.chat.engine_terms import append_message


def chat_messages(messages: Sequence[RequestMessage]) -> tuple[ChatMessage, ...]:
    """Returns the messages in an order that chat templates take.

    Raises:
        InvalidRequest: a message has a part that is not text, or lacks a field that its role needs.
    """
    ordered: list[ChatMessage] = []
    for message in map(_translated, range(len(messages)), messages):
        append_message(ordered, message)
    return tuple(ordered)


def _translated(index: int, message: RequestMessage) -> ChatMessage:
    where = f"messages[{index}]"
    if message.content is None and message.role != "assistant":
        raise InvalidRequest(f"{where}.content is missing.")
    text = content_text(message.content, where)
    match message.role:
        case "system" | "developer":
            return ChatMessage("system", text)
        case "assistant":
            return ChatMessage("assistant", text, tool_calls=tuple(_calls(message)))
        case "tool":
            if message.tool_call_id is None:
                raise InvalidRequest(f"{where}.tool_call_id is missing.")
            return ChatMessage("tool", text, tool_call_id=message.tool_call_id)
        case "user":
            return ChatMessage("user", text)


def _calls(message: RequestMessage) -> Iterable[ToolCall]:
    for call in message.tool_calls or ():
        yield ToolCall(call.id, call.function.name, call.function.arguments)


def content_text(content: str | Sequence[ContentPart] | None, where: str) -> str:
    """Returns the text of a message's content.

    Raises:
        InvalidRequest: a part is not text. `where` names the message.
    """
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_part_text(part, f"{where}.content[{index}]") for index, part in enumerate(content))


def _part_text(part: ContentPart, where: str) -> str:
    match part:
        case TextContent():
            return part.text
        case RefusalContent():
            return part.refusal
        case _:
            raise InvalidRequest(
                f"{where}: this server reads text only, and the part is of type {part.type!r}."
            )
