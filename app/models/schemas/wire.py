"""Defines the base classes of the wire models, and the kinds of text that their fields hold."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

LoadState = Literal["available", "loading", "loaded", "failed"]

MAX_TEXT = 400_000  # characters of one message; the request body has its own limit in bytes
MAX_STOP = 16


def _no_surrogates(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds a lone surrogate, which is not a character")
    return text


def not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_no_surrogates)]
NonBlankText = Annotated[Text, AfterValidator(not_blank)]
StopString = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_no_surrogates)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_no_surrogates)]


def _one_or_many(value: object) -> str:
    return "a list" if isinstance(value, list) else "a text"


# Discriminated before validation, so that a wrong list is not reported as a wrong text as well.
StopField = Annotated[
    Annotated[list[StopString], Tag("a list")] | Annotated[StopString, Tag("a text")],
    Discriminator(_one_or_many),
]


class WireModel(BaseModel):
    # Each model is built at its first use, because the client must start at once and uses few of them. The
    # server builds all that it needs while it starts (docs.describe).
    model_config = ConfigDict(allow_inf_nan=False, protected_namespaces=(), frozen=True, defer_build=True)


class RequestModel(WireModel):
    model_config = ConfigDict(extra="forbid")
