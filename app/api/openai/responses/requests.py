"""Defines the requests of /v1/responses."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StrictBool, StrictInt, Tag, model_validator

from app.api.openai.chat_requests import ContentPart, SamplingOptions, ThinkingTokens
from app.api.openai.wire import LenientRequest, refuse_fields
from app.models.schemas import Metadata

# Fields that would change the meaning of the reply, and that this server does not support.
_REFUSED = ("prompt", "moderation")


class MessageItem(LenientRequest):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[ContentPart]


class FunctionCallItem(LenientRequest):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionOutputItem(LenientRequest):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[ContentPart]


class ThinkingText(LenientRequest):
    text: str = ""


class ReasoningItem(LenientRequest):
    type: Literal["reasoning"]
    content: list[ThinkingText] | None = None


class OtherItem(LenientRequest):
    """An item of a type that this server does not know."""

    type: str


_KINDS = ("message", "function_call", "function_call_output", "reasoning")


def _kind(item: Any) -> str:  # Any: raw JSON, before validation
    """Returns a tag that is no identifier, so that messages about errors leave it out."""
    kind = item.get("type") or "message" if isinstance(item, dict) else "other"
    return f"a {kind}" if kind in _KINDS else "another"


RequestItem = Annotated[
    Annotated[MessageItem, Tag("a message")]
    | Annotated[FunctionCallItem, Tag("a function_call")]
    | Annotated[FunctionOutputItem, Tag("a function_call_output")]
    | Annotated[ReasoningItem, Tag("a reasoning")]
    | Annotated[OtherItem, Tag("another")],
    Discriminator(_kind),
]
RequestItems = Annotated[list[RequestItem], Field(max_length=10_000)]


def _as_items(value: Any) -> Any:  # Any: raw JSON, before validation
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class ResponseTool(LenientRequest):
    """A tool. Those of other types than `function` run elsewhere, so they are ignored."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None  # Any: a JSON schema
    strict: StrictBool | None = None

    @model_validator(mode="after")
    def _function_has_a_name(self) -> "ResponseTool":
        if self.type == "function" and self.name is None:
            raise ValueError("name is missing")
        return self


class ChosenTools(LenientRequest):
    """A tool that must be called, or the tools that may be."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list[ResponseTool] = Field(default_factory=list)


class TextFormat(LenientRequest):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = Field(None, alias="schema")  # Any: a JSON schema
    name: str | None = None
    strict: StrictBool | None = None
    description: str | None = None

    @model_validator(mode="after")
    def _schema_is_there(self) -> "TextFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("schema is missing")
        return self


class TextOptions(LenientRequest):
    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(LenientRequest):
    effort: str | None = None
    summary: str | None = None


class ConversationReference(LenientRequest):
    id: str


class ResponsePrompt(LenientRequest):
    """All that decides on the prompt of a response."""

    model: str | None = None
    input: Annotated[RequestItems, BeforeValidator(_as_items, str | RequestItems)] = Field(
        default_factory=list
    )
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationReference | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=512)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTools | None = None
    parallel_tool_calls: StrictBool | None = None
    reasoning: ReasoningOptions | None = None
    thinking_budget: ThinkingTokens | None = None
    text: TextOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None

    @property
    def conversation_id(self) -> str | None:
        if isinstance(self.conversation, ConversationReference):
            return self.conversation.id
        return self.conversation

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:  # Any: raw JSON, before validation
        refuse_fields(data, _REFUSED, "not supported by this server")
        return data

    @model_validator(mode="after")
    def _one_history(self) -> "ResponsePrompt":
        if self.previous_response_id is not None and self.conversation is not None:
            raise ValueError("previous_response_id: send it or conversation, not both")
        return self


class ResponseRequest(ResponsePrompt, SamplingOptions):
    """The request for a response. Its sampling fields are those of chat completions."""

    max_output_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    stream: StrictBool | None = None
    store: StrictBool | None = None
    background: StrictBool | None = None
    include: list[str] | None = None
    metadata: Metadata | None = None
    max_tool_calls: StrictInt | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def shows_logprobs(self) -> bool:
        return self.top_logprobs is not None or "message.output_text.logprobs" in (self.include or ())

    @model_validator(mode="after")
    def _background_is_stored(self) -> "ResponseRequest":
        if self.background and not self.is_stored:
            raise ValueError("background: a response that is not stored cannot be read later")
        return self
