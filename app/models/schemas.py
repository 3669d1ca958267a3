"""Owns the native wire models of /api/v1: what a request may hold and what a reply does.

Shared with the terminal client, so it imports nothing of the server. A request's unknown fields are refused
by name, and its numbers and booleans are taken as they are written: `true` is no 1. A reply's unknown fields
are passed over, so that a client can read what a newer server says.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    Tag,
    model_validator,
)

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "cancelled", "interrupted"]
ModelState = Literal["available", "loading", "loaded", "failed"]

MAX_TEXT = 400_000  # characters of one message; the request body has its own limit in bytes
MAX_STOP = 16


def _no_surrogates(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds a lone surrogate, which is no character")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_no_surrogates)]
Message = Annotated[Text, AfterValidator(_not_blank)]
StopString = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_no_surrogates)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_no_surrogates)]


def _one_or_many(value: object) -> str:
    return "a list" if isinstance(value, list) else "a text"


# Told apart before they are validated, so that a wrong list is not called a wrong text besides.
StopStrings = Annotated[
    Annotated[list[StopString], Tag("a list")] | Annotated[StopString, Tag("a text")],
    Discriminator(_one_or_many),
]


class WireModel(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False, protected_namespaces=(), frozen=True)


class RequestModel(WireModel):
    model_config = ConfigDict(extra="forbid")


# Requests


def _describe_alias(schema: dict[str, Any]) -> None:  # Any: JSON schema
    properties = schema["properties"]
    properties["max_length"] = properties["max_tokens"] | {
        "title": "Max Length",
        "description": "Another name of `max_tokens`: send one of them.",
    }


class SamplingFields(RequestModel):
    """How to draw the reply. A field left out takes the model's own default."""

    model_config = ConfigDict(json_schema_extra=_describe_alias)

    max_tokens: StrictInt | None = Field(
        None,
        ge=1,
        le=1_000_000,
        validation_alias=AliasChoices("max_tokens", "max_length"),
        description="Most tokens in the reply, clamped to what is left of the window. Alias: `max_length`.",
    )
    temperature: StrictFloat | None = Field(
        None, ge=0, le=2, description="0 is greedy: always the likeliest token."
    )
    top_p: StrictFloat | None = Field(None, gt=0, le=1)
    top_k: StrictInt | None = Field(None, ge=0, le=1_000_000, description="0 turns it off.")
    min_p: StrictFloat | None = Field(None, ge=0, le=1)
    repetition_penalty: StrictFloat | None = Field(None, gt=0, le=10)
    presence_penalty: StrictFloat | None = Field(None, ge=-2, le=2)
    frequency_penalty: StrictFloat | None = Field(None, ge=-2, le=2)
    seed: StrictInt | None = Field(
        None, ge=0, le=2**63 - 1, description="The same seed draws the same reply."
    )
    stop: StopStrings | None = Field(None, description="Text that ends the reply; not part of it.")

    @model_validator(mode="before")
    @classmethod
    def _one_name_for_the_limit(cls, data: Any) -> Any:  # Any: raw JSON, before validation
        if isinstance(data, dict) and "max_tokens" in data and "max_length" in data:
            raise ValueError("max_tokens and max_length are the same field: send one of them")
        return data

    @model_validator(mode="after")
    def _few_stop_strings(self) -> "SamplingFields":
        if isinstance(self.stop, list) and len(self.stop) > MAX_STOP:
            raise ValueError(f"stop holds more than {MAX_STOP} strings")
        return self


class ChatRequest(SamplingFields):
    message: Message = Field(description="What the user says.", examples=["What is the capital of France?"])
    conversation_id: Name | None = Field(
        None, description="Goes on with this conversation; none starts a new one."
    )
    model_name: Name | None = Field(None, description="Answers with this model; none means the current one.")
    system_prompt: Text | None = Field(
        None, description="Replaces the conversation's system prompt from here on."
    )
    stream: StrictBool = Field(
        False, description="Server-sent events: `start`, `delta`..., then `done` or `error`."
    )


class TranscriptMessage(RequestModel):
    """One message of a conversation that is restored. What a past reply said of itself is kept."""

    role: Literal["user", "assistant"]
    content: Text
    timestamp: datetime | None = None
    model_name: Name | None = None
    finish_reason: FinishReason | None = None

    @model_validator(mode="after")
    def _user_says_something(self) -> "TranscriptMessage":
        """As in a chat; a reply may be empty, since a model may stop at once."""
        if self.role == "user":
            _not_blank(self.content)
        return self


class NewChatRequest(RequestModel):
    system_prompt: Text | None = None
    title: Annotated[Name, AfterValidator(_not_blank)] | None = None
    model_name: Name | None = Field(None, description="The model that this conversation asks for by default.")
    messages: list[TranscriptMessage] = Field(
        default_factory=list,
        max_length=10_000,
        description="A transcript to go on from: user and assistant in turns, beginning with the user.",
    )


class RegenerateRequest(SamplingFields):
    """Answers the last user message again."""

    model_name: Name | None = None
    stream: StrictBool = False


class ContinueRequest(SamplingFields):
    """Extends the last reply, as one that was cut by `max_tokens` or by Ctrl-C."""

    model_name: Name | None = None
    stream: StrictBool = False


class UndoRequest(RequestModel):
    turns: StrictInt = Field(1, ge=1, le=10_000, description="How many turns to drop from the end.")


class SwitchModelRequest(RequestModel):
    model_name: Name = Field(examples=["builtin"])
    stream: StrictBool = Field(
        False, description="Server-sent events: `progress`..., then `done` or `error`."
    )


class LoadModelRequest(RequestModel):
    model_name: Name | None = Field(None, description="None means the current model.")
    stream: StrictBool = False


class GenerateRequest(SamplingFields):
    prompt: Message = Field(description="Text to go on from, as it stands: no chat template.")
    num_return_sequences: StrictInt = Field(1, ge=1, le=16)
    do_sample: StrictBool | None = Field(None, description="False is greedy: temperature 0.")
    model_name: Name | None = None
    stream: StrictBool = Field(False, description="Server-sent events; one sequence only.")

    @model_validator(mode="after")
    def _no_contradiction(self) -> "GenerateRequest":
        if self.do_sample and self.temperature == 0:
            raise ValueError("do_sample is true and temperature 0, which is greedy: send one of them")
        if self.do_sample is False and self.temperature:
            raise ValueError("do_sample is false, which is greedy, and temperature above 0: send one of them")
        if self.stream and self.num_return_sequences > 1:
            raise ValueError("stream gives one sequence: set num_return_sequences to 1")
        return self


# Replies


class Usage(WireModel):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = Field(description="Tokens of the prompt that were not computed again.")


class Timings(WireModel):
    """Seconds from the request's arrival at the model, and the speed of what followed the first token."""

    queue_s: float
    first_token_s: float
    total_s: float
    tokens_per_second: float | None


class Parameters(WireModel):
    """What was really used to draw the reply."""

    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    stop: list[str]


class ChatResponse(WireModel):
    response: str
    conversation_id: str
    message_id: str
    model_name: str = Field(description="The name the model was asked for by.")
    model_id: str = Field(description="What really answered: a Hub repository or a local folder.")
    generation_time: float = Field(description="Seconds.")
    finish_reason: FinishReason
    message_count: int = Field(description="Messages now stored in the conversation.")
    usage: Usage
    timings: Timings
    omitted_messages: int = Field(description="Oldest messages that were left out of the prompt.")
    parameters: Parameters
    timestamp: datetime | None = Field(None, description="Of the reply, as the conversation keeps it.")


class NewChatResponse(WireModel):
    conversation_id: str
    message: str = "New conversation started"
    title: str | None
    system_prompt: str
    model_name: str
    message_count: int
    created_at: datetime


class ConversationMessage(WireModel):
    id: str
    role: Role
    content: str
    timestamp: datetime
    model_name: str | None = None
    model_id: str | None = None
    finish_reason: FinishReason | None = None


class ConversationResponse(WireModel):
    conversation_id: str
    title: str | None
    system_prompt: str
    model_name: str | None = Field(
        description="The model this conversation asks for; none means the current one."
    )
    created_at: datetime
    updated_at: datetime
    message_count: int
    messages: list[ConversationMessage]


class ConversationSummary(WireModel):
    conversation_id: str
    title: str | None
    created_at: datetime
    updated_at: datetime
    message_count: int
    preview: str = Field(description="The beginning of the first user message.")


class ConversationListResponse(WireModel):
    conversations: list[ConversationSummary]
    total: int
    limit: int
    offset: int


class DeletedResponse(WireModel):
    conversation_id: str
    message: str = "Conversation deleted"


class UndoResponse(WireModel):
    conversation_id: str
    removed_messages: int
    message_count: int


class LoadProgress(WireModel):
    """How far a load has come, as measured.

    `stage` is resolve, download, import, load, check, warm up or ready.
    """

    model_name: str
    stage: str
    fraction: float = Field(ge=0, le=1)


class ModelEntry(WireModel):
    name: str
    display_name: str
    status: ModelState
    is_current: bool
    model_id: str = Field(description="What it is served from, or the first place it would come from.")
    sources: list[str]
    is_on_disk: bool
    description: str
    context_length: int
    size_bytes: int = Field(description="Of the weights, about.")
    memory_bytes: int = Field(description="What serving it needs, about.")
    progress: LoadProgress | None = None
    error: str | None = Field(None, description="Why the last load failed.")


class ModelListResponse(WireModel):
    models: list[ModelEntry]
    current_model: str | None


class SwitchModelResponse(WireModel):
    message: str
    model_name: str
    model_id: str
    load_time: float = Field(description="Seconds; 0 when it was still loaded.")


class ModelInfoResponse(WireModel):
    model_name: str
    model_id: str | None
    display_name: str
    loaded: bool
    status: ModelState
    architecture: str | None = None
    device: str | None = None
    dtype: str | None = Field(None, description="What it computes in.")
    weights: str | None = Field(
        None, description="The form of its layers' weights: float32, float16, bfloat16 or int8."
    )
    parameters: int | None = None
    memory_bytes: int | None = None
    kv_cache_bytes: int | None = None
    context_length: int
    load_time: float | None = None
    error: str | None = Field(None, description="Why the last load failed.")


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


class ModelHealth(WireModel):
    name: str
    status: ModelState
    model_id: str | None = None
    progress: LoadProgress | None = None
    error: str | None = None


class HealthResponse(WireModel):
    status: Literal["ok", "loading", "unavailable"]
    timestamp: datetime
    uptime: float
    version: str
    boot_id: str = Field(description="New at every start: a client sees that the server's memory was lost.")
    current_model: str | None
    model: ModelHealth | None
    loading: list[LoadProgress]
    note: str | None = Field(None, description="Why another model than the default answers.")
    active_requests: int
    queued_requests: int


class ErrorDetail(WireModel):
    code: str
    message: str
    hint: str | None = None
    retry_after: int | None = None


class ErrorResponse(WireModel):
    error: ErrorDetail


# Stream events: the `data` of each frame, named by its `event`


class StartEvent(WireModel):
    """The request was admitted. Sent before the first token."""

    conversation_id: str | None = None
    message_id: str | None = None
    model_name: str
    model_id: str
    prompt_tokens: int
    omitted_messages: int


class DeltaEvent(WireModel):
    """Text to append. All deltas of a stream are exactly its whole text."""

    text: str
