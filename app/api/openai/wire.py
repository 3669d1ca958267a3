"""Defines the base classes of the wire models of other APIs, and the types that OpenAI's APIs share.

Requests ignore unknown fields, because their clients send many that change nothing. Replies leave out the
fields that were not set, because some clients distinguish null from absent.
"""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class LenientRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())


def refuse_fields(data: Any, names: Iterable[str], reason: str) -> None:  # Any: raw JSON, before validation
    """Raises ValueError if some of the fields are given; null and an empty list count as not given."""
    given = [name for name in names if isinstance(data, dict) and data.get(name) not in (None, [])]
    if given:
        raise ValueError(f"{', '.join(given)}: {reason}")


class SparseModel(BaseModel):
    """A part of a reply. Only the fields that are set are sent."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    @model_serializer(mode="wrap")
    def _set_fields(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:  # Any: JSON
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}


class ErrorBody(SparseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(SparseModel):
    """The body of an error response, and the last event of a stream that failed."""

    error: ErrorBody


class CompletionUsage(SparseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: "PromptTokensDetails"
    completion_tokens_details: "CompletionTokensDetails"


class PromptTokensDetails(SparseModel):
    cached_tokens: int


class CompletionTokensDetails(SparseModel):
    reasoning_tokens: int
