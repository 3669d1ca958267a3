"""Translates requests and stored messages into the engine's terms: forms of replies, tools, chat messages."""

import json

from app.engine.ipc.messages import ChatMessage, Grammar, Tool, ToolCall, ToolUse
from app.models.conversation import Message
from app.models.schemas import (
    ChoiceFormat,
    InputMessage,
    JsonFormat,
    JsonSchemaFormat,
    LarkFormat,
    NamedTool,
    RegexFormat,
    ResponseFormat,
    ToolCallPart,
    ToolFields,
    ToolResultPart,
)


def grammar_of(response_format: ResponseFormat | None) -> Grammar | None:
    """Returns the grammar of the reply's text; None if it has any form."""
    match response_format:
        case None:
            return None
        case JsonSchemaFormat(json_schema=schema):
            return Grammar("json_schema", json.dumps(schema))
        case JsonFormat():
            return Grammar("json")
        case RegexFormat(pattern=pattern):
            return Grammar("regex", pattern)
        case ChoiceFormat(choices=choices):
            return Grammar("choice", json.dumps(choices))
        case LarkFormat(grammar=grammar):
            return Grammar("lark", grammar)


def tool_use_of(fields: ToolFields) -> ToolUse | None:
    """Returns the request's tools; None if it has none."""
    if not fields.tools:
        return None
    tools = tuple(
        Tool(tool.name, tool.description, json.dumps(tool.parameters), tool.strict) for tool in fields.tools
    )
    is_parallel = fields.parallel_tool_calls is not False
    match fields.tool_choice:
        case NamedTool(name=name):
            return ToolUse(tools, name=name, is_parallel=is_parallel)
        case "none" | "required" as choice:
            return ToolUse(tools, choice, is_parallel=is_parallel)
        case _:
            return ToolUse(tools, is_parallel=is_parallel)


def chat_messages_of(message: Message) -> list[ChatMessage]:
    """Returns a stored message as the engine takes it: one for each result, if it has results of tools."""
    results = [part for part in message.parts if isinstance(part, ToolResultPart)]
    if results:
        return [ChatMessage("tool", part.content, tool_call_id=part.id) for part in results]
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    tool_calls = tuple(ToolCall(part.id, part.name, part.arguments) for part in calls)
    return [ChatMessage(message.role, message.content, tool_calls)]


def append_message(ordered: list[ChatMessage], message: ChatMessage) -> None:
    """Adds a message, so that the order stays one that chat templates take.

    System messages that follow each other are joined, as are user messages. A later system message becomes
    the beginning of the user's next one.
    """
    if message.role == "system" and any(each.role != "system" for each in ordered):
        message = ChatMessage("user", message.content)
    last = ordered[-1] if ordered else None
    if last is not None and last.role == message.role and message.role in ("system", "user"):
        message = ChatMessage(message.role, f"{ordered.pop().content}\n\n{message.content}")
    ordered.append(message)


def chat_message_of(message: InputMessage) -> ChatMessage:
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls or ())
    return ChatMessage(message.role, message.content, calls, message.tool_call_id)
