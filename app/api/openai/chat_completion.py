"""Turns the events of replies into a chat completion of OpenAI's API, whole or in chunks."""

import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from app.api.openai.chat_replies import (
    CalledFunction,
    ChatCompletion,
    ChatCompletionChunk,
    ChoiceFinish,
    ChoiceLogprobs,
    ChosenToken,
    ChunkChoice,
    ChunkDelta,
    CompletionChoice,
    EndOfStream,
    ReplyMessage,
    ReplyToolCall,
    TokenChance,
)
from app.api.openai.wire import CompletionTokensDetails, CompletionUsage, PromptTokensDetails
from app.models.chat.reply import GeneratedReply
from app.models.choices import ChoiceEvent
from app.models.conversation import new_id
from app.models.schemas import (
    DeltaEvent,
    LogprobEntry,
    StartEvent,
    ThinkingEvent,
    ToolCallEvent,
    ToolCallPart,
)

ChoiceEvents = AsyncGenerator[ChoiceEvent, None]


@dataclass(frozen=True, slots=True)
class CompletionIdentity:
    """The fields that all parts of one completion share."""

    model: str
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, choice: ChunkChoice) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=[choice],
        )

    def usage_chunk(self, usage: CompletionUsage) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=[],
            usage=usage,
        )


async def whole_completion(events: ChoiceEvents, model: str) -> AsyncGenerator[ChatCompletion, None]:
    """Yields the whole completion, once all replies are complete."""
    identity, replies = CompletionIdentity(model), dict[int, GeneratedReply]()
    async with aclosing(events):
        async for index, event in events:
            if isinstance(event, GeneratedReply):
                replies[index] = event
    yield ChatCompletion(
        id=identity.id,
        object="chat.completion",
        created=identity.created,
        model=model,
        choices=[_choice(index, replies[index]) for index in sorted(replies)],
        usage=total_usage(replies),
    )


async def completion_chunks(
    events: ChoiceEvents, model: str, *, reports_usage: bool
) -> AsyncGenerator[ChatCompletionChunk | EndOfStream, None]:
    """Yields chunks as the replies grow, then one with the usage if requested, then the end of the stream."""
    identity, replies = CompletionIdentity(model), dict[int, GeneratedReply]()
    begun: dict[int, set[int]] = {}  # the tool calls of each reply whose names were sent
    async with aclosing(events):
        async for index, event in events:
            for choice in _chunk_choices(index, event, begun.setdefault(index, set())):
                yield identity.chunk(choice)
            if isinstance(event, GeneratedReply):
                replies[index] = event
    if reports_usage:
        yield identity.usage_chunk(total_usage(replies))
    yield EndOfStream()


def _chunk_choices(index: int, event: object, begun: set[int]) -> Iterator[ChunkChoice]:
    match event:
        case StartEvent():
            yield _delta(index, ChunkDelta(role="assistant", content=""))
        case ThinkingEvent(text=text):
            yield _delta(index, ChunkDelta(reasoning_content=text, reasoning=text))
        case ToolCallEvent():
            yield _delta(
                index, ChunkDelta(tool_calls=[_call_piece(event, is_first=event.index not in begun)])
            )
            begun.add(event.index)
        case DeltaEvent(text=text, logprobs=logprobs):
            yield _delta(index, ChunkDelta(content=text), logprobs)
        case GeneratedReply():
            yield ChunkChoice(index=index, delta=ChunkDelta(), finish_reason=_finish(event), logprobs=None)


def _delta(index: int, delta: ChunkDelta, logprobs: list[LogprobEntry] | None = None) -> ChunkChoice:
    return ChunkChoice(index=index, delta=delta, finish_reason=None, logprobs=_logprobs(logprobs))


def _choice(index: int, reply: GeneratedReply) -> CompletionChoice:
    thinking = (
        {} if reply.thinking is None else {"reasoning_content": reply.thinking, "reasoning": reply.thinking}
    )
    calls = {"tool_calls": [_whole_call(call) for call in reply.tool_calls]} if reply.tool_calls else {}
    content = reply.text or None if calls else reply.text
    message = ReplyMessage(role="assistant", content=content, refusal=None, **thinking, **calls)
    return CompletionChoice(
        index=index, message=message, finish_reason=_finish(reply), logprobs=_logprobs(reply.logprobs)
    )


def _finish(reply: GeneratedReply) -> ChoiceFinish:
    if reply.finish_reason == "length":
        return "length"
    return "tool_calls" if reply.tool_calls else "stop"


def _call_piece(event: ToolCallEvent, *, is_first: bool) -> ReplyToolCall:
    """Returns a piece of a call. Only the first names the function, because clients concatenate names."""
    if not is_first:
        return ReplyToolCall(index=event.index, function=CalledFunction(arguments=event.arguments))
    function = CalledFunction(name=event.name, arguments=event.arguments)
    return ReplyToolCall(index=event.index, id=event.id, type="function", function=function)


def _whole_call(call: ToolCallPart) -> ReplyToolCall:
    function = CalledFunction(name=call.name, arguments=call.arguments)
    return ReplyToolCall(id=call.id, type="function", function=function)


def _logprobs(entries: list[LogprobEntry] | None) -> ChoiceLogprobs | None:
    if entries is None:
        return None
    return ChoiceLogprobs(content=[_chosen(entry) for entry in entries], refusal=None)


def _chosen(entry: LogprobEntry) -> ChosenToken:
    assert entry.logprob is not None, "only the first token of a prompt has none"
    top = [
        TokenChance(token=other.token, logprob=other.logprob, bytes=other.bytes)
        for other in entry.top_logprobs
    ]
    return ChosenToken(token=entry.token, logprob=entry.logprob, bytes=entry.bytes, top_logprobs=top)


def total_usage(replies: Mapping[int, GeneratedReply], count: int | None = None) -> CompletionUsage:
    """Returns the usage of all replies, by their indices, together.

    There are `count` replies to each prompt, which counts once; None: all have the same.
    """
    usages = [replies[index].usage for index in sorted(replies)]
    prompts = usages[:: len(usages) if count is None else count]
    prompt_tokens = sum(usage.prompt_tokens for usage in prompts)
    completion = sum(usage.completion_tokens for usage in usages)
    return CompletionUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion,
        total_tokens=prompt_tokens + completion,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=sum(usage.cached_tokens for usage in prompts)
        ),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=sum(usage.reasoning_tokens for usage in usages)
        ),
    )
