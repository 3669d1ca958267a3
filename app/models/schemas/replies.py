"""Defines the replies with generated texts, the events of their streams, and errors."""

from datetime import datetime

from pydantic import Field

from app.core.literals import FinishReason
from app.models.schemas.parts import ToolCallPart
from app.models.schemas.wire import WireModel


class Usage(WireModel):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = Field(description="Tokens of the prompt that were taken from the KV cache.")
    reasoning_tokens: int = Field(
        0, description="Tokens of the completion that are thinking, or the marks around it."
    )


class Timings(WireModel):
    """Seconds since the model received the request, and the speed after the first token."""

    queue_s: float = Field(description="Until the first step of the request.")
    first_token_s: float = Field(description="Until the first token.")
    total_s: float = Field(description="Until the last token.")
    tokens_per_second: float | None = Field(description="null for fewer than two tokens.")


class Parameters(WireModel):
    """The sampling parameters that were used, including defaults; null for those of a remote engine's own."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    stop: list[str]
    stop_token_ids: list[int] = Field(default_factory=list)
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    bad_words: list[str] = Field(default_factory=list)
    logit_bias: dict[str, float] = Field(default_factory=dict)
    top_logprobs: int | None = None


class TopLogprob(WireModel):
    """A likely token. `bytes` are those of its text, which may be a part of a character."""

    token: str
    token_id: int
    bytes: list[int]
    logprob: float


class LogprobEntry(WireModel):
    """A token, the natural logarithm of its probability, and the most likely tokens in its place."""

    token: str
    token_id: int
    bytes: list[int]
    logprob: float | None = Field(description="null for the first token of a prompt.")
    top_logprobs: list[TopLogprob]


class ChatResponse(WireModel):
    response: str
    thinking: str | None = Field(None, description="The thinking of a reasoning model.")
    tool_calls: list[ToolCallPart] | None = Field(None, description="The tools that the model calls.")
    conversation_id: str
    message_id: str = Field(description="The id of the reply.")
    parent_id: str | None = Field(None, description="The id of the message that it answers.")
    model_name: str = Field(description="The model's name in the catalogue.")
    model_id: str = Field(description="The source of its weights: a Hub repository or a local folder.")
    generation_time: float | None = Field(description="Seconds; null for an interrupted reply.")
    finish_reason: FinishReason
    message_count: int = Field(description="The number of messages now in the conversation's current branch.")
    usage: Usage | None = Field(description="null for an interrupted reply.")
    timings: Timings | None = Field(description="null for an interrupted reply.")
    omitted_messages: int = Field(
        description="The number of oldest messages that were left out of the prompt."
    )
    parameters: Parameters | None = Field(
        description="null if the reply was interrupted while its model was loading."
    )
    logprobs: list[LogprobEntry] | None = Field(
        None, description="The tokens of the response, if `top_logprobs` asked for them."
    )
    timestamp: datetime | None = Field(
        None, description="When the reply ended, as stored in the conversation."
    )


class StopTurnResponse(WireModel):
    message_id: str
    was_running: bool = Field(description="false if the turn had ended before.")
    reply: ChatResponse | None = Field(description="What is kept; null if nothing was said, or it failed.")


class GenerateResponse(WireModel):
    generated_text: list[str]
    finish_reasons: list[FinishReason]
    prompt: str
    model_name: str
    model_id: str
    generation_time: float
    parameters: Parameters
    usage: Usage
    timings: Timings
    logprobs: list[list[LogprobEntry]] | None = Field(
        None, description="The tokens of each text, if `top_logprobs` asked for them."
    )
    prompt_logprobs: list[LogprobEntry] | None = None


class TokenizeResponse(WireModel):
    model_name: str
    token_ids: list[int]
    tokens: list[str] = Field(description="The text of each token. A part of a character shows as \ufffd.")
    count: int


class DetokenizeResponse(WireModel):
    model_name: str
    text: str


class CountResponse(WireModel):
    model_name: str
    tokens: int = Field(description="The prompt's tokens, as the model would see it.")
    context_length: int = Field(description="The most tokens of prompt and reply together.")


class ErrorDetail(WireModel):
    code: str
    message: str
    hint: str | None = None
    retry_after: int | None = Field(None, description="Seconds after which to try again.")
    head_id: str | None = Field(
        None, description="With `head_changed`: the conversation's head. Missing if its branch is empty."
    )


class ErrorResponse(WireModel):
    error: ErrorDetail


# Events of a stream: each is the `data` of a frame, whose `event` field names it.


class StartEvent(WireModel):
    """The request was accepted. This event comes before the first token."""

    conversation_id: str | None = None
    message_id: str | None = None
    parent_id: str | None = None
    model_name: str
    model_id: str
    prompt_tokens: int | None = Field(description="null if it is not known, or not known any more.")
    omitted_messages: int
    parameters: Parameters | None = None


class ThinkingEvent(WireModel):
    """A piece of a reasoning model's thinking, which is not part of the response."""

    text: str


class ToolCallEvent(WireModel):
    """A piece of the arguments of a tool call. The pieces with the same `index` are one call's arguments."""

    index: int = Field(description="The number of the call in the reply, from 0 on.")
    id: str
    name: str
    arguments: str


class DeltaEvent(WireModel):
    """A piece of the reply. Together the deltas of a stream are exactly its text."""

    text: str
    logprobs: list[LogprobEntry] | None = Field(
        None, description="The tokens of this piece, if `top_logprobs` asked for them."
    )
