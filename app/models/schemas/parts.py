"""Defines the typed parts of a message. The server stores the same parts that it sends."""

from typing import Annotated, Literal

from pydantic import Field

from app.models.schemas.wire import WireModel


class TextPart(WireModel):
    type: Literal["text"] = "text"
    text: str


class ThinkingPart(WireModel):
    """A reasoning model's thinking, which is not part of the response."""

    type: Literal["thinking"] = "thinking"
    text: str


class ToolCallPart(WireModel):
    """A call of a tool that the model asks for."""

    type: Literal["tool_call"] = "tool_call"
    id: str
    name: str
    arguments: str = Field(description="The arguments as the model wrote them; usually a JSON object.")


class ToolResultPart(WireModel):
    """The result of a tool call, in a message whose role is `tool`."""

    type: Literal["tool_result"] = "tool_result"
    id: str = Field(description="The id of the tool call.")
    content: str


MessagePart = Annotated[TextPart | ThinkingPart | ToolCallPart | ToolResultPart, Field(discriminator="type")]
