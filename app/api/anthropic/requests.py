"""Defines the request of POST /v1/messages."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, StrictFloat, StrictInt, Tag, model_validator

from app.api.openai.chat_requests import ThinkingTokens
from app.api.openai.wire import LenientRequest


class TextBlock(LenientRequest):
    type: Literal["text"]
    text: str


class OtherBlock(LenientRequest):
    """A block that this server does not read: earlier thinking, an image, a use of a server's tool."""

    type: str


def _among(*types: str) -> Discriminator:
    """Chooses the class of a block by its type: OtherBlock for a type that is not among these."""

    def kind(block: Any) -> str:  # Any: raw JSON, or a block
        found = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
        return found if isinstance(found, str) and found in types else "other"

    return Discriminator(kind)


_Text = Annotated[TextBlock, Tag("text")]
_Other = Annotated[OtherBlock, Tag("other")]
# The blocks of documents and of tools' results have types of their own, so that nesting has an end.
DocumentPart = Annotated[_Text | _Other, _among("text")]


class DocumentSource(LenientRequest):
    """Where a document's text is. This server reads `text` and `content`, and no files."""

    type: str
    data: str | None = None
    content: str | list[DocumentPart] | None = None

    @model_validator(mode="after")
    def _text_is_there(self) -> "DocumentSource":
        if self.type == "text" and self.data is None:
            raise ValueError("data is missing")
        if self.type == "content" and self.content is None:
            raise ValueError("content is missing")
        return self


class DocumentBlock(LenientRequest):
    type: Literal["document"]
    source: DocumentSource
    title: str | None = None
    context: str | None = None


class SearchResultBlock(LenientRequest):
    type: Literal["search_result"]
    source: str
    title: str
    content: list[TextBlock]


_Document = Annotated[DocumentBlock, Tag("document")]
_SearchResult = Annotated[SearchResultBlock, Tag("search_result")]
ResultPart = Annotated[
    _Text | _Document | _SearchResult | _Other, _among("text", "document", "search_result")
]


class ToolUseBlock(LenientRequest):
    """A call that the model has made before."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]  # Any: JSON


class ToolResultBlock(LenientRequest):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[ResultPart] | None = None
    is_error: StrictBool | None = None


RequestBlock = Annotated[
    _Text
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | _Document
    | _SearchResult
    | _Other,
    _among("text", "tool_use", "tool_result", "document", "search_result"),
]


class MessageParam(LenientRequest):
    role: Literal["user", "assistant", "system"]
    content: str | list[RequestBlock]


class ToolParam(LenientRequest):
    """A tool. One with a type of its own, such as a web search, runs elsewhere and is ignored."""

    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None  # Any: a JSON schema
    strict: StrictBool | None = None


class ToolChoice(LenientRequest):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: StrictBool | None = None


class OutputFormat(LenientRequest):
    """The form of the reply's text."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")  # Any: a JSON schema


class OutputConfig(LenientRequest):
    format: OutputFormat | None = None


class ThinkingParam(LenientRequest):
    type: str
    budget_tokens: ThinkingTokens | None = None


class PromptRequest(LenientRequest):
    """The fields that make the prompt."""

    model: str
    messages: Annotated[list[MessageParam], Field(min_length=1, max_length=10_000)]
    system: str | list[RequestBlock] | None = None
    tools: Annotated[list[ToolParam], Field(max_length=512)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingParam | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # the older name of output_config.format


class MessagesRequest(PromptRequest):
    max_tokens: StrictInt
    temperature: StrictFloat | None = None
    top_p: StrictFloat | None = None
    top_k: StrictInt | None = None
    stop_sequences: list[str] | None = None
    stream: StrictBool | None = None
