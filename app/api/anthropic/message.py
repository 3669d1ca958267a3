"""Turns the events of a reply into a message of Anthropic's API, whole or as the events of a stream."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from app.api.anthropic.replies import (
    BlockDelta,
    BlockDeltaBody,
    BlockStart,
    BlockStop,
    ContentBlock,
    MessageDelta,
    MessageEnd,
    MessageStart,
    MessageStop,
    MessageUsage,
    ReplyMessageBody,
    StopReason,
    StreamEvent,
)
from app.models.chat.reply import GeneratedReply, ReplyPart
from app.models.choices import ChoiceEvent
from app.models.conversation import new_id
from app.models.schemas import (
    DeltaEvent,
    StartEvent,
    TextPart,
    ThinkingEvent,
    ThinkingPart,
    ToolCallEvent,
    ToolCallPart,
    Usage,
)


async def whole_message(
    events: AsyncGenerator[ChoiceEvent, None], model: str
) -> AsyncGenerator[ReplyMessageBody, None]:
    """Yields the whole message, once the reply is complete."""
    async with aclosing(events):
        async for _, event in events:
            if isinstance(event, GeneratedReply):
                yield ReplyMessageBody(
                    id=new_id("msg"),
                    type="message",
                    role="assistant",
                    model=model,
                    content=_blocks(event),
                    stop_reason=_stop_reason(event),
                    stop_sequence=event.matched_stop,
                    usage=_usage(event.usage),
                )


async def message_events(
    events: AsyncGenerator[ChoiceEvent, None], model: str
) -> AsyncGenerator[StreamEvent, None]:
    """Yields the events of the stream as the reply grows."""
    blocks = _OpenBlocks()
    async with aclosing(events):
        async for _, event in events:
            for made in _stream_events(event, model, blocks):
                yield made


def _stream_events(event: object, model: str, blocks: "_OpenBlocks") -> Iterator[StreamEvent]:
    match event:
        case StartEvent():
            yield _start(model, event.prompt_tokens or 0)  # a remote engine reports them at the end
        case ThinkingEvent(text=text):
            block = ContentBlock(type="thinking", thinking="", signature="")
            yield from blocks.add("thinking", block, BlockDeltaBody(type="thinking_delta", thinking=text))
        case DeltaEvent(text=text):
            block = ContentBlock(type="text", text="")
            yield from blocks.add("text", block, BlockDeltaBody(type="text_delta", text=text))
        case ToolCallEvent():
            block = ContentBlock(type="tool_use", id=event.id, name=event.name, input={})
            piece = BlockDeltaBody(type="input_json_delta", partial_json=event.arguments)
            yield from blocks.add(event.id, block, piece)
        case GeneratedReply():
            yield from blocks.close()
            end = MessageEnd(stop_reason=_stop_reason(event), stop_sequence=event.matched_stop)
            yield MessageDelta(type="message_delta", delta=end, usage=_usage(event.usage))
            yield MessageStop(type="message_stop")


@dataclass(slots=True)
class _OpenBlocks:
    """The block of a stream that is open, and the number of those before it."""

    key: str | None = None
    index: int = field(default=-1)

    def add(self, key: str, block: ContentBlock, piece: BlockDeltaBody) -> Iterator[StreamEvent]:
        """Adds a piece to the block with this key. Another block ends first."""
        if key != self.key:
            yield from self.close()
            self.key, self.index = key, self.index + 1
            yield BlockStart(type="content_block_start", index=self.index, content_block=block)
        yield BlockDelta(type="content_block_delta", index=self.index, delta=piece)

    def close(self) -> Iterator[StreamEvent]:
        if self.key is not None:
            yield BlockStop(type="content_block_stop", index=self.index)
        self.key = None


def _start(model: str, prompt_tokens: int) -> MessageStart:
    message = ReplyMessageBody(
        id=new_id("msg"),
        type="message",
        role="assistant",
        model=model,
        content=[],
        stop_reason=None,
        stop_sequence=None,
        usage=MessageUsage(input_tokens=prompt_tokens, output_tokens=0),
    )
    return MessageStart(type="message_start", message=message)


def _blocks(reply: GeneratedReply) -> list[ContentBlock]:
    return [_block(part) for part in reply.parts]


def _block(part: ReplyPart) -> ContentBlock:
    match part:
        case ThinkingPart():
            return ContentBlock(type="thinking", thinking=part.text, signature="")
        case TextPart():
            return ContentBlock(type="text", text=part.text)
        case ToolCallPart():
            return ContentBlock(type="tool_use", id=part.id, name=part.name, input=_object(part.arguments))


def _object(arguments: str) -> Mapping[str, Any]:  # Any: JSON
    """Returns the arguments. Those of a call that was cut off are read as clients read a stream's."""
    try:
        value = from_json(arguments, allow_partial=True)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _stop_reason(reply: GeneratedReply) -> StopReason:
    if reply.matched_stop is not None:
        return "stop_sequence"
    if reply.finish_reason == "length":
        return "max_tokens"
    return "tool_use" if reply.tool_calls else "end_turn"


def _usage(usage: Usage) -> MessageUsage:
    return MessageUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
    )
