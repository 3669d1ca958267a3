"""Defines the items of responses and conversations, and makes them from stored messages."""

from collections.abc import Iterator, Sequence
from typing import Literal

from app.api.openai.responses.ids import item_id, system_item_id
from app.api.openai.wire import SparseModel
from app.models.branches import StoredBranch
from app.models.conversation import Conversation, Message
from app.models.schemas import MessagePart, TextPart, ThinkingPart, ToolCallPart, ToolResultPart

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class LikelyToken(SparseModel):
    token: str
    bytes: list[int]
    logprob: float


class TextLogprob(LikelyToken):
    top_logprobs: list[LikelyToken]


class OutputText(SparseModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[str]  # always empty
    logprobs: list[TextLogprob]


class InputText(SparseModel):
    type: Literal["input_text"] = "input_text"
    text: str


class ReasoningText(SparseModel):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class OutputMessage(SparseModel):
    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class InputMessageItem(SparseModel):
    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Literal["user", "system"]
    content: list[InputText]


class Reasoning(SparseModel):
    id: str
    type: Literal["reasoning"] = "reasoning"
    status: ItemStatus
    summary: list[str]  # always empty, because nobody summarises the thinking
    content: list[ReasoningText]


class FunctionCallBody(SparseModel):
    id: str
    type: Literal["function_call"] = "function_call"
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class FunctionOutput(SparseModel):
    id: str
    type: Literal["function_call_output"] = "function_call_output"
    status: ItemStatus
    call_id: str
    output: str


OutputItem = OutputMessage | Reasoning | FunctionCallBody
Item = OutputItem | InputMessageItem | FunctionOutput


class ItemList(SparseModel):
    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


def text_item(
    own_id: str, text: str, status: ItemStatus, logprobs: Sequence[TextLogprob] = ()
) -> OutputMessage:
    part = OutputText(type="output_text", text=text, annotations=[], logprobs=list(logprobs))
    return OutputMessage(id=own_id, type="message", status=status, role="assistant", content=[part])


def reasoning_item(own_id: str, text: str, status: ItemStatus) -> Reasoning:
    part = ReasoningText(type="reasoning_text", text=text)
    return Reasoning(id=own_id, type="reasoning", status=status, summary=[], content=[part])


def call_item(own_id: str, call: ToolCallPart, status: ItemStatus) -> FunctionCallBody:
    return FunctionCallBody(
        id=own_id,
        type="function_call",
        status=status,
        call_id=call.id,
        name=call.name,
        arguments=call.arguments,
    )


def branch_items(branch: StoredBranch) -> list[Item]:
    """Returns all items of the branch. The conversation's system prompt is its first one."""
    return [*system_items(branch.conversation), *items_of(branch.messages)]


def system_items(conversation: Conversation) -> list[Item]:
    if not conversation.system_prompt:
        return []
    return [_input_item(system_item_id(conversation.id), "system", conversation.system_prompt)]


def items_of(messages: Sequence[Message]) -> list[Item]:
    """Returns the items of stored messages: one for each of the user's, one for each part of the others."""
    return [item for message in messages for item in _items(message)]


def _items(message: Message) -> Iterator[Item]:
    match message.role:
        case "user" | "system" as role:
            yield _input_item(item_id("msg", message.id), role, message.content)
        case _:
            for index, part in enumerate(message.parts):
                yield _part_item(message.id, index, part)


def _input_item(own_id: str, role: Literal["user", "system"], text: str) -> InputMessageItem:
    content = [InputText(type="input_text", text=text)]
    return InputMessageItem(id=own_id, type="message", status="completed", role=role, content=content)


def _part_item(message_id: str, index: int, part: MessagePart) -> Item:
    match part:
        case TextPart(text=text):
            return text_item(item_id("msg", message_id, index), text, "completed")
        case ThinkingPart(text=text):
            return reasoning_item(item_id("rs", message_id, index), text, "completed")
        case ToolCallPart():
            return call_item(item_id("fc", message_id, index), part, "completed")
        case ToolResultPart(id=call_id, content=content):
            return FunctionOutput(
                id=item_id("fco", message_id, index),
                type="function_call_output",
                status="completed",
                call_id=call_id,
                output=content,
            )
