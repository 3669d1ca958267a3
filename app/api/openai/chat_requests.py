"""Defines the request of POST /v1/chat/completions."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictInt, model_validator

from app.api.openai.wire import LenientRequest, refuse_fields
from app.models.schemas import StopField

# Fields that would change the meaning of the reply, and that this server does not support.
_REFUSED = ("audio", "functions", "function_call", "web_search_options")
# Forms of the text in the words of other servers, which a reply would not have if they were ignored.
_OTHER_FORMS = ("grammar", "guided_choice", "guided_grammar", "guided_json", "guided_regex", "json_schema")
_MAX_CHOICES = 16
# The most tokens of thinking, after which it is closed: a field of this server.
ThinkingTokens = Annotated[StrictInt, Field(ge=0, le=1_000_000)]


class TextContent(LenientRequest):
    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalContent(LenientRequest):
    type: Literal["refusal"]
    refusal: str


class UnsupportedContent(LenientRequest):
    """A part that is not text, such as an image."""

    type: str


ContentPart = TextContent | RefusalContent | UnsupportedContent


class FunctionCall(LenientRequest):
    name: str
    arguments: str


class RequestToolCall(LenientRequest):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class RequestMessage(LenientRequest):
    """A message of any role. Each role uses some of the fields."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[RequestToolCall] | None = None
    tool_call_id: str | None = None


class StreamOptions(LenientRequest):
    include_usage: StrictBool = False


class FunctionTool(LenientRequest):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None  # Any: a JSON schema
    strict: StrictBool | None = None


class RequestTool(LenientRequest):
    """A tool. Those of other types than `function` run elsewhere, so they are ignored."""

    type: str
    function: FunctionTool | None = None

    @model_validator(mode="after")
    def _function_is_there(self) -> "RequestTool":
        if self.type == "function" and self.function is None:
            raise ValueError("function is missing")
        return self


class NamedFunction(LenientRequest):
    name: str


class AllowedFunction(LenientRequest):
    function: NamedFunction


class AllowedFunctions(LenientRequest):
    mode: Literal["auto", "required"]
    tools: list[AllowedFunction]


class AllowedToolChoice(LenientRequest):
    """The tools that may be called. The others count as not declared."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedFunctions


class NamedToolChoice(LenientRequest):
    type: Literal["function"]
    function: NamedFunction


class JsonSchemaSpec(LenientRequest):
    name: str = ""
    json_schema: dict[str, Any] | None = Field(None, alias="schema")  # Any: a JSON schema
    strict: StrictBool | None = None


class ChatResponseFormat(LenientRequest):
    """The form of the reply's text. llama-server and others take the schema of a `json_object` beside it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaSpec | None = None
    object_schema: dict[str, Any] | None = Field(None, alias="schema")  # Any: a JSON schema

    @model_validator(mode="after")
    def _schema_is_there(self) -> "ChatResponseFormat":
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.json_schema is None):
            raise ValueError("json_schema.schema is missing")
        return self


class StructuredOutputs(LenientRequest):
    """The form of the reply's text, as vLLM's clients ask for it."""

    model_config = ConfigDict(extra="forbid")

    json_schema: dict[str, Any] | str | None = Field(None, alias="json")  # Any: a JSON schema
    json_object: StrictBool | None = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _has_one_form(self) -> "StructuredOutputs":
        if sum(form not in (None, False) for form in self.__dict__.values()) != 1:
            raise ValueError("send exactly one of json, json_object, regex and choice")
        return self


class TemplateArguments(LenientRequest):
    enable_thinking: StrictBool | None = None


class SamplingOptions(LenientRequest):
    """The sampling fields of OpenAI's API, and those of vLLM's that this server has under the same name."""

    temperature: StrictFloat | None = None
    top_p: StrictFloat | None = None
    seed: StrictInt | None = None
    stop: StopField | None = None
    presence_penalty: StrictFloat | None = None
    frequency_penalty: StrictFloat | None = None
    logit_bias: dict[str, StrictFloat] | None = None

    top_k: StrictInt | None = None
    min_p: StrictFloat | None = None
    repetition_penalty: StrictFloat | None = None
    min_tokens: StrictInt | None = None
    ignore_eos: StrictBool | None = None
    stop_token_ids: list[StrictInt] | None = None
    include_stop_str_in_output: StrictBool | None = None
    bad_words: list[str] | None = None


class SamplingRequest(SamplingOptions):
    """The fields that chat completions and completions share."""

    model: str
    max_tokens: StrictInt | None = None
    n: Annotated[StrictInt, Field(ge=1, le=_MAX_CHOICES)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    response_format: ChatResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_forms(cls, data: Any) -> Any:  # Any: raw JSON, before validation
        refuse_fields(data, _OTHER_FORMS, "send response_format or structured_outputs")
        return data

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if self.structured_outputs is not None and self.response_format is not None:
            raise ValueError("structured_outputs: send it or response_format, not both")
        return self

    @property
    def reports_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatCompletionRequest(SamplingRequest):
    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: StrictInt | None = None
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = None
    tools: Annotated[list[RequestTool], Field(max_length=512)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | AllowedToolChoice | None = None
    parallel_tool_calls: StrictBool | None = None
    reasoning_effort: str | None = None
    thinking_budget: ThinkingTokens | None = None
    chat_template_kwargs: TemplateArguments | None = None
    modalities: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:  # Any: raw JSON, before validation
        refuse_fields(data, _REFUSED, "not supported by this server")
        return data

    @model_validator(mode="after")
    def _no_contradiction(self) -> "ChatCompletionRequest":
        if self.modalities is not None and self.modalities != ["text"]:
            raise ValueError("modalities: this server generates text only")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self
