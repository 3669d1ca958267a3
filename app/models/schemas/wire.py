"""Defines the base classes of the wire models, and the types of text for their fields."""

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    model_validator,
)

from app.core.sampling import MAX_WORD, TOKEN_ID

LoadState = Literal["available", "loading", "loaded", "failed"]

KEEP_ALIVE_S = 10.0  # after which an open event stream that has nothing else to send gets a comment
MAX_TEXT = 400_000  # characters of one message; the request body has its own limit in bytes
MAX_STOP = 16
_MAX_FIELDS = 200  # of one object, because building an error for each unknown field takes time


def not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


def _few(strings: object) -> object:
    if isinstance(strings, list) and len(strings) > MAX_STOP:
        raise ValueError(f"has more than {MAX_STOP} strings")
    return strings


# Pydantic refuses lone surrogates in all of these types, because their length is limited.
Text = Annotated[str, Field(max_length=MAX_TEXT)]
NonBlankText = Annotated[Text, AfterValidator(not_blank)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_WORD)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
TokenId = Annotated[StrictInt, TOKEN_ID]
TokenIdText = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]  # a key of a JSON object


def _one_or_many(value: object) -> str:
    return "a list" if isinstance(value, list) else "a text"


# The discriminator comes before validation, so that a wrong list is not also reported as a wrong text.
StopField = Annotated[
    Annotated[list[StopString], BeforeValidator(_few), Tag("a list")] | Annotated[StopString, Tag("a text")],
    Discriminator(_one_or_many),
]


class WireModel(BaseModel):
    # Each model is built at its first use, because the client must start fast and uses few of them. The
    # server builds its models during start-up (docs.describe).

    model_config = ConfigDict(allow_inf_nan=False, protected_namespaces=(), frozen=True, defer_build=True)


class RequestModel(WireModel):
    """A request. A field with several names may be sent under one of them. Null counts as left out."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, data: Any) -> Any:  # Any: raw JSON, before validation
        if not isinstance(data, dict):
            return data
        if len(data) > _MAX_FIELDS:
            raise ValueError("the object has too many fields")
        left_out = {name for names in _aliases(cls) for name in _unused(names, data)}
        return {name: value for name, value in data.items() if name not in left_out}


@cache
def _aliases(model: type[RequestModel]) -> list[list[str]]:
    """Returns the names of each field that has several."""
    choices = [field.validation_alias for field in model.model_fields.values()]
    return [list(map(str, choice.choices)) for choice in choices if isinstance(choice, AliasChoices)]


def _unused(names: list[str], data: dict[str, Any]) -> list[str]:
    """Returns the names of one field that have no value. Raises ValueError if two of them have values."""
    given = [name for name in names if data.get(name) is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are the same field; send only one of them")

    return [name for name in names if name not in given]
