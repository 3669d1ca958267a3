"""Defines the forms that a request can demand of a reply's text."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.models.schemas.wire import RequestModel

_LONGEST = 200_000  # characters


class JsonSchemaFormat(RequestModel):
    """JSON that validates against the schema."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema", description="A JSON schema.")  # Any: JSON


class JsonFormat(RequestModel):
    """Any JSON value."""

    type: Literal["json"]


class RegexFormat(RequestModel):
    """A text that the whole regular expression matches. It has no look-around."""

    type: Literal["regex"]
    pattern: str = Field(max_length=_LONGEST)


class ChoiceFormat(RequestModel):
    """One of these texts."""

    type: Literal["choice"]
    choices: list[Annotated[str, Field(min_length=1, max_length=10_000)]] = Field(
        min_length=1, max_length=10_000
    )


class LarkFormat(RequestModel):
    """A text of this grammar, in the Lark dialect of llguidance."""

    type: Literal["lark"]
    grammar: str = Field(max_length=_LONGEST)


ResponseFormat = Annotated[
    JsonSchemaFormat | JsonFormat | RegexFormat | ChoiceFormat | LarkFormat, Field(discriminator="type")
]
