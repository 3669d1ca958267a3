"""Translates a request of Anthropic's API into the input of a model."""

import json
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from app.api.anthropic.requests import (
    DocumentBlock,
    MessageParam,
    MessagesRequest,
    OtherBlock,
    PromptRequest,
    RequestBlock,
    SearchResultBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from app.api.openai.sampling import problem_of
from app.core.errors import InvalidRequest
from app.engine.backend import ModelInput
from app.engine.ipc.messages import ChatMessage, Grammar, Tool, ToolCall, ToolUse
from app.models.chat.engine_terms import append_message
from app.models.schemas import SamplingFields

_UNREAD = ("image", "audio", "video", "document")  # a document only inside another one


def message_input(request: PromptRequest, owner: str) -> ModelInput:
    """Returns the input. If the last message is the assistant's, the reply continues it.

    Raises:
        InvalidRequest: a message has an image or the like, or `tool_choice` names no tool.
    """
    ordered: list[ChatMessage] = []
    if system := _text(request.system or "", "system"):
        ordered.append(ChatMessage("system", system))
    for index, message in enumerate(request.messages):
        for translated in _translated(message, f"messages[{index}]"):
            append_message(ordered, translated)
    last = ordered[-1] if ordered else None
    is_continued = last is not None and last.role == "assistant" and not last.tool_calls
    wanted = None if request.thinking is None or request.thinking.type == "disabled" else request.thinking
    return ModelInput(
        tuple(ordered),
        continue_final_message=is_continued,
        think=_think(request),
        wants_thinking=wanted is not None,
        thinking_budget=None if wanted is None else wanted.budget_tokens,
        is_budget_hint=True,
        grammar=_grammar(request),
        tool_use=_tool_use(request),
        scope=owner,
    )


def message_sampling(request: MessagesRequest) -> SamplingFields:
    """Returns the sampling fields.

    Raises:
        InvalidRequest: a number is out of its range.
    """
    try:
        return SamplingFields(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            stop=request.stop_sequences or None,
        )
    except ValidationError as error:
        raise InvalidRequest(problem_of(error)) from None


def _translated(message: MessageParam, where: str) -> Iterator[ChatMessage]:
    """Yields the results of tools, each as a message, and then the message itself."""
    blocks = [] if isinstance(message.content, str) else message.content
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            result = _text(block.content or "", where)
            text = f"Error: {result}" if block.is_error else result
            yield ChatMessage("tool", text, tool_call_id=block.tool_use_id)
    calls = tuple(
        ToolCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False))
        for block in blocks
        if isinstance(block, ToolUseBlock)
    )
    text = _text(message.content, where)
    if text or calls or not any(isinstance(block, ToolResultBlock) for block in blocks):
        yield ChatMessage(message.role, text, tool_calls=calls)


def _text(content: str | Sequence[RequestBlock], where: str) -> str:
    """Returns the text of the blocks. Blocks of unknown types are ignored, as clients expect."""
    if isinstance(content, str):
        return content
    return "\n".join(text for block in content for text in _texts(block, where) if text)


def _texts(block: RequestBlock, where: str) -> Iterator[str]:
    match block:
        case TextBlock():
            yield block.text
        case SearchResultBlock():
            yield from (block.title, block.source, *(each.text for each in block.content))
        case DocumentBlock(source=source):
            if source.type not in ("text", "content"):
                raise InvalidRequest(
                    f"{where}: this server reads documents of text only, not {source.type!r}."
                )
            yield from (block.title or "", block.context or "", source.data or "")
            yield _text(source.content or "", where)
        case OtherBlock(type=kind) if kind in _UNREAD:
            raise InvalidRequest(f"{where}: this server reads text only, not {kind!r}.")


def _grammar(request: PromptRequest) -> Grammar | None:
    wanted = request.output_format
    if request.output_config is not None and request.output_config.format is not None:
        wanted = request.output_config.format
    return None if wanted is None else Grammar("json_schema", json.dumps(wanted.json_schema))


def _think(request: PromptRequest) -> bool | None:
    """Returns False if the model must not think. A wish to think is a hint, which some models ignore."""
    return False if request.thinking is not None and request.thinking.type == "disabled" else None


def _tool_use(request: PromptRequest) -> ToolUse | None:
    tools = tuple(
        Tool(tool.name, tool.description or "", json.dumps(tool.input_schema), bool(tool.strict))
        for tool in request.tools or ()
        if tool.name is not None and tool.input_schema is not None
    )
    choice = request.tool_choice
    kind = "auto" if choice is None else choice.type
    name = choice.name if choice is not None and kind == "tool" else None
    if kind == "tool" and all(tool.name != name for tool in tools):
        raise InvalidRequest("tool_choice.name: tools has no tool of this name.")
    if not tools:
        if kind == "any":
            raise InvalidRequest("tool_choice: it demands a call, but there are no tools.")
        return None
    return ToolUse(
        tools,
        "required" if kind in ("any", "tool") else "none" if kind == "none" else "auto",
        name,
        is_parallel=choice is None or not choice.disable_parallel_tool_use,
    )
