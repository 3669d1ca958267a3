"""Defines the replies of POST /v1/chat/completions, whole and in chunks."""

from typing import Literal

from pydantic import Field

from app.api.openai.wire import CompletionUsage, SparseModel

ChoiceFinish = Literal["stop", "length", "tool_calls"]


class TokenChance(SparseModel):
    """A token that could have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(TokenChance):
    top_logprobs: list[TokenChance]


class ChoiceLogprobs(SparseModel):
    content: list[ChosenToken]
    refusal: None


class CalledFunction(SparseModel):
    name: str = ""
    arguments: str


class ReplyToolCall(SparseModel):
    """A call, or a piece of one. `index` is set in chunks only, id, type and name only in the first piece."""

    index: int = 0
    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class ReplyMessage(SparseModel):
    """The message of a whole reply. Both names of the thinking are in use by clients."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    reasoning: str = ""
    tool_calls: list[ReplyToolCall] = Field(default_factory=list)


class CompletionChoice(SparseModel):
    index: int
    message: ReplyMessage
    finish_reason: ChoiceFinish
    logprobs: ChoiceLogprobs | None


class ChatCompletion(SparseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


class ChunkDelta(SparseModel):
    """The part of the message that a chunk adds."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning_content: str = ""
    reasoning: str = ""
    tool_calls: list[ReplyToolCall] = Field(default_factory=list)


class ChunkChoice(SparseModel):
    index: int
    delta: ChunkDelta
    finish_reason: ChoiceFinish | None
    logprobs: ChoiceLogprobs | None


class ChatCompletionChunk(SparseModel):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None


class EndOfStream(SparseModel):
    """Stands for the frame `data: [DONE]`."""
