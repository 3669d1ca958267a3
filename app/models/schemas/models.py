"""Owns what is asked and said of models: which there are, how far a load is, and the server's health."""

from datetime import datetime
from typing import Literal

from pydantic import Field, StrictBool

from app.models.schemas.wire import LoadState, Name, RequestModel, WireModel


class SwitchModelRequest(RequestModel):
    model_name: Name = Field(examples=["builtin"])
    stream: StrictBool = Field(
        False, description="Server-sent events: `progress`..., then `done` or `error`."
    )


class LoadModelRequest(RequestModel):
    model_name: Name | None = Field(None, description="None means the current model.")
    stream: StrictBool = False


class UnloadModelRequest(RequestModel):
    model_name: Name | None = Field(None, description="None means the current model.")


class FileProgress(WireModel):
    name: str
    done_bytes: int
    total_bytes: int


class LoadProgress(WireModel):
    """How far a load has come, as measured.

    `stage` is verify, resolve, download, drain, convert, import, load, check, pack, warm up or ready; in
    `drain` the model that makes way ends what it is at. What is said of bytes holds for a download, and is
    null in the other stages.
    """

    model_name: str
    stage: str
    fraction: float = Field(ge=0, le=1, description="Of this stage.")
    done_bytes: int | None = None
    total_bytes: int | None = None
    bytes_per_s: float | None = Field(None, description="Over the last seconds.")
    seconds_left: float | None = None
    files: list[FileProgress] = Field(default_factory=list)
    note: str | None = Field(None, description="What else happens on its way.")


class ModelEntry(WireModel):
    name: str
    display_name: str
    status: LoadState
    is_current: bool
    model_id: str = Field(description="What it is served from, or the first place it would come from.")
    sources: list[str]
    is_on_disk: bool
    description: str
    context_length: int
    size_bytes: int | None = Field(description="Of the weights, about; null where nobody has told.")
    memory_bytes: int | None = Field(description="What serving it needs: measured once it was loaded.")
    is_pinned: bool = Field(False, description="Stays loaded, whatever else needs the memory.")
    open_requests: int = 0
    progress: LoadProgress | None = None
    error: str | None = Field(None, description="Why the last load failed.")


class ModelListResponse(WireModel):
    models: list[ModelEntry]
    current_model: str | None


class SwitchModelResponse(WireModel):
    message: str
    model_name: str
    model_id: str
    load_time: float = Field(description="Seconds; 0 when it was still loaded.")


class UnloadModelResponse(WireModel):
    message: str
    model_name: str
    was_loaded: bool


class ModelInfoResponse(WireModel):
    model_name: str
    model_id: str | None
    display_name: str
    loaded: bool
    status: LoadState
    architecture: str | None = None
    device: str | None = None
    dtype: str | None = Field(None, description="What it computes in.")
    weights: str | None = Field(
        None, description="The form of its layers' weights: float32, float16, bfloat16 or int8."
    )
    draft: str | None = Field(None, description="The model that guesses for it, whose guesses it checks.")
    parameters: int | None = None
    memory_bytes: int | None = None
    kv_cache_bytes: int | None = None
    context_length: int
    load_time: float | None = None
    error: str | None = Field(None, description="Why the last load failed.")


class ModelHealth(WireModel):
    name: str
    status: LoadState
    model_id: str | None = None
    progress: LoadProgress | None = None
    error: str | None = None


class HealthResponse(WireModel):
    status: Literal["ok", "loading", "unavailable"]
    timestamp: datetime
    uptime: float
    version: str
    boot_id: str = Field(description="New at every start: a client sees that the server's memory was lost.")
    current_model: str | None
    model: ModelHealth | None
    loading: list[LoadProgress]
    note: str | None = Field(None, description="Why another model than the default answers.")
    active_requests: int
    queued_requests: int
