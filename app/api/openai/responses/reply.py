"""Defines the response of /v1/responses, and the fields of the request that it repeats."""

import time
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.openai.responses.items import OutputItem
from app.api.openai.responses.requests import ResponsePrompt, ResponseRequest, ResponseTool, TextFormat
from app.models.schemas import Usage

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class ResponseConversation(BaseModel):
    id: str


class Echo(BaseModel):
    """The fields of a request that its response repeats. They are stored with the reply."""

    created_at: int
    model: str | None  # None: the request left it out
    background: bool = False
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning: dict[str, str | None] = Field(default_factory=dict)
    safety_identifier: str | None = None
    service_tier: Literal["default"] = "default"
    store: bool = True
    text: dict[str, Any] = Field(default_factory=lambda: {"format": {"type": "text"}})  # Any: JSON
    tool_choice: str | dict[str, Any] = "auto"  # Any: JSON
    tools: list[dict[str, Any]] = Field(default_factory=list)  # Any: JSON
    truncation: Literal["auto", "disabled"] = "disabled"
    user: str | None = None


class StoredEcho(BaseModel):
    """The facts that are stored with a reply. `begins` says whether the request began the conversation."""

    echo: Echo
    begins: bool

    def is_same_request(self, other: str | None) -> bool:
        """Returns whether another one, as JSON, is of an equal request. None is one of another API."""
        if other is None:
            return False
        theirs = StoredEcho.model_validate_json(other)
        created_at = {"created_at": self.echo.created_at}
        return self == theirs.model_copy(update={"echo": theirs.echo.model_copy(update=created_at)})


class CachedDetails(BaseModel):
    cached_tokens: int
    cache_write_tokens: int = 0


class ReasoningDetails(BaseModel):
    reasoning_tokens: int


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: CachedDetails
    output_tokens: int
    output_tokens_details: ReasoningDetails
    total_tokens: int


class ResponseFailure(BaseModel):
    code: str
    message: str


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens"]


class ResponseBody(Echo):
    """A response. The sampling parameters are those that were really used."""

    id: str
    object: Literal["response"] = "response"
    status: ResponseStatus
    completed_at: int | None = None
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: list[OutputItem]
    usage: ResponseUsage | None = None
    conversation: ResponseConversation | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    top_logprobs: int = 0


class ResponseDeletion(BaseModel):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class InputTokens(BaseModel):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


def echo_of(request: ResponseRequest) -> Echo:
    """Returns the fields of the request that its response repeats."""
    return Echo(
        created_at=int(time.time()),
        model=request.model,
        background=bool(request.background),
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        metadata=request.metadata or {},
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning={} if request.reasoning is None else request.reasoning.model_dump(),
        safety_identifier=request.safety_identifier,
        store=request.is_stored,
        text=_text_of(request),
        tool_choice=_choice_of(request),
        tools=[_tool_of(tool) for tool in request.tools or () if tool.type == "function"],
        truncation=request.truncation or "disabled",
        user=request.user,
    )


def _text_of(request: ResponsePrompt) -> dict[str, Any]:  # Any: JSON
    text = request.text
    wanted = TextFormat(type="text") if text is None or text.format is None else text.format
    shown = {"format": wanted.model_dump(by_alias=True, exclude_none=True)}
    return shown if text is None or text.verbosity is None else shown | {"verbosity": text.verbosity}


def _choice_of(request: ResponsePrompt) -> str | dict[str, Any]:  # Any: JSON
    choice = request.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump(exclude_unset=True)


def _tool_of(tool: ResponseTool) -> dict[str, Any]:  # Any: JSON
    return tool.model_dump(include={"type", "name", "description", "parameters", "strict"})


def usage_of(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=CachedDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=ReasoningDetails(reasoning_tokens=usage.reasoning_tokens),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
