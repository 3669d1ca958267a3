"""Defines the message that POST /v1/messages returns, and the events of its stream."""

from typing import Any, Literal

from pydantic import Field

from app.api.openai.wire import SparseModel

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessageUsage(SparseModel):
    """`input_tokens` are those that were computed; `cache_read_input_tokens` came from the KV cache."""

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int


class ContentBlock(SparseModel):
    """A text, a tool call or thinking. Each type has some of the fields."""

    type: Literal["text", "tool_use", "thinking"]
    text: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] = Field(default_factory=dict)  # Any: JSON
    thinking: str = ""
    signature: str = ""


class ReplyMessageBody(SparseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class StreamEvent(SparseModel):
    """An event. Its type is also the name of its frame."""

    type: str


class MessageStart(StreamEvent):
    message: ReplyMessageBody


class BlockStart(StreamEvent):
    index: int
    content_block: ContentBlock


class BlockDeltaBody(SparseModel):
    type: Literal["text_delta", "input_json_delta", "thinking_delta"]
    text: str = ""
    partial_json: str = ""
    thinking: str = ""


class BlockDelta(StreamEvent):
    index: int
    delta: BlockDeltaBody


class BlockStop(StreamEvent):
    index: int


class MessageEnd(SparseModel):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(StreamEvent):
    delta: MessageEnd
    usage: MessageUsage


class MessageStop(StreamEvent):
    pass


class AnthropicErrorBody(SparseModel):
    type: str
    message: str


class AnthropicError(StreamEvent):
    error: AnthropicErrorBody
