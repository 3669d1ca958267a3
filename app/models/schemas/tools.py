"""Defines the tools that a request declares, and messages with calls of them and their results."""

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from app.core.literals import Role
from app.models.schemas.parts import ToolCallPart
from app.models.schemas.wire import Name, RequestModel, Text

ToolName = Annotated[str, Field(pattern=r"^[\w.:/-]{1,128}$")]
_MOST_TOOLS = 512


class ToolDefinition(RequestModel):
    """A function that the model may call."""

    name: ToolName
    description: Text = ""
    parameters: dict[str, Any] = Field(  # Any: JSON
        default_factory=lambda: {"type": "object", "properties": {}},
        description="The JSON schema of its arguments.",
    )
    strict: StrictBool = Field(
        False,
        description="Whether the arguments validate also if `tool_choice` is auto. They always do if it "
        "demands the call.",
    )


class NamedTool(RequestModel):
    """The tool that the reply must call."""

    name: ToolName


class ToolFields(RequestModel):
    """The tools of a reply."""

    tools: list[ToolDefinition] | None = Field(
        None,
        max_length=_MOST_TOOLS,
        description="The functions that the model may call. Its chat template must know tools.",
    )
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = Field(
        None,
        description="Whether the reply may (auto), must not (none) or must (required) be calls, or the tool "
        "that it must call. If left out: auto.",
    )
    parallel_tool_calls: StrictBool | None = Field(
        None, description="Whether a reply may have several calls. If left out: true."
    )

    @model_validator(mode="after")
    def _choice_has_tools(self) -> "ToolFields":
        if not self.tools and (
            self.tool_choice not in (None, "none") or self.parallel_tool_calls is not None
        ):
            raise ValueError("tool_choice and parallel_tool_calls need tools")
        return self


class InputMessage(RequestModel):
    """A message that a request brings with it."""

    role: Role
    content: Text = ""
    thinking: Text | None = Field(
        None, description="In a message of the assistant. It is stored, and the model does not read it again."
    )
    tool_calls: list[ToolCallPart] | None = Field(None, max_length=_MOST_TOOLS)
    tool_call_id: Name | None = Field(
        None, description="In a message with the role `tool`: the call whose result it is."
    )


class TokenizeRequest(RequestModel):
    text: Text
    model_name: Name | None = None
    add_special_tokens: StrictBool = Field(
        True, description="Whether to add the tokens that the model's tokenizer adds to a prompt."
    )


class DetokenizeRequest(RequestModel):
    token_ids: list[Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]] = Field(max_length=400_000)
    model_name: Name | None = None
    skip_special_tokens: StrictBool = False


class CountRequest(ToolFields):
    """A chat with its tools, or a raw prompt: exactly one of them."""

    messages: list[InputMessage] | None = Field(None, min_length=1, max_length=10_000)
    prompt: Text | None = None
    think: StrictBool | None = None
    model_name: Name | None = None

    @model_validator(mode="after")
    def _one_input(self) -> "CountRequest":
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("send messages or prompt, one of them")
        return self
