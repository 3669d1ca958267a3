"""Defines the reply for people who watch the server: models, open requests and the last failures."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from app.models.schemas.wire import LoadState, WireModel

RequestStage = Literal["model", "prompt", "reply"]


class ModelActivity(WireModel):
    """A model that is or was loaded, is loading or has failed."""

    name: str
    status: LoadState
    running: int
    waiting: int
    kv_used: float = Field(description="The used share of the KV cache, 0 to 1.")
    memory_bytes: int | None
    prompt_tokens: int = Field(description="Tokens of prompts since the server's start.")
    generated_tokens: int = Field(description="Tokens generated since the server's start.")


class RequestEntry(WireModel):
    """An open request to a model. One over HTTP for several replies makes several."""

    request_id: str
    model_name: str | None
    stage: RequestStage = Field(
        description="It waits for its model to be loaded, for its prompt to be read, or for its reply's end."
    )
    age_s: float
    prompt_tokens: int
    completion_tokens: int


class FailureEntry(WireModel):
    timestamp: datetime
    request_id: str
    model_name: str | None
    code: str
    message: str


class ActivityResponse(WireModel):
    """The models are those of all callers; the requests and failures are the caller's own."""

    version: str
    uptime: float
    models: list[ModelActivity]
    requests: list[RequestEntry]
    failures: list[FailureEntry]
