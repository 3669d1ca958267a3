"""Defines the requests and replies about models, the progress of a load, and the server's health."""

from datetime import datetime
from typing import Literal

from pydantic import Field, StrictBool

from app.core.literals import CacheKind
from app.models.schemas.wire import LoadState, Name, RequestModel, WireModel


class SwitchModelRequest(RequestModel):
    model_name: Name = Field(examples=["builtin"])
    stream: StrictBool = Field(
        False, description="Answers with server-sent events: `progress`..., then `done` or `error`."
    )


class LoadModelRequest(RequestModel):
    model_name: Name | None = Field(None, description="If left out, the current model.")
    stream: StrictBool = False


class UnloadModelRequest(RequestModel):
    model_name: Name | None = Field(None, description="If left out, the current model.")


class FileProgress(WireModel):
    name: str
    done_bytes: int
    total_bytes: int


class LoadProgress(WireModel):
    """The measured progress of a load.

    `stage` is verify, resolve, download, drain, convert, import, load, check, pack, warm up or ready. During
    `drain`, a model that is about to be unloaded finishes its requests. The figures about bytes are null
    except during `download`.
    """

    model_name: str
    stage: str
    fraction: float = Field(ge=0, le=1, description="The share of this stage that is done.")
    done_bytes: int | None = None
    total_bytes: int | None = None
    bytes_per_s: float | None = Field(None, description="The speed over the last seconds.")
    seconds_left: float | None = None
    files: list[FileProgress] = Field(default_factory=list)
    note: str | None = Field(None, description="A message for people about this load.")


class ModelEntry(WireModel):
    name: str
    display_name: str
    status: LoadState
    is_current: bool
    model_id: str = Field(description="The source of its weights, or the first source that would be tried.")
    sources: list[str]
    is_on_disk: bool
    is_remote: bool = Field(False, description="Whether a remote engine serves it.")
    description: str
    context_length: int
    size_bytes: int | None = Field(
        description="The size of the weights: exact if they are on this disk, else rough; null if unknown."
    )
    memory_bytes: int | None = Field(
        description="The memory for serving it: measured if it was loaded, otherwise estimated for the form "
        "in which it would be served; 0 for a remote engine; null if unknown."
    )
    is_memory_measured: bool = Field(False, description="Whether `memory_bytes` was measured.")
    is_too_large: bool = Field(
        False, description="Whether it would not fit into the memory even if other models were unloaded."
    )
    is_pinned: bool = Field(False, description="Whether it is never unloaded to make room for another model.")
    aliases: list[str] = Field(default_factory=list, description="Other names that requests may use for it.")
    open_requests: int = 0
    cache: CacheKind | None = Field(None, description="See `/model-info`; null unless it is loaded here.")
    progress: LoadProgress | None = None
    error: str | None = Field(None, description="Why the last load failed.")


class ModelListResponse(WireModel):
    models: list[ModelEntry]
    current_model: str | None
    is_hub_reachable: bool | None = Field(
        None,
        description="Whether the Hugging Face Hub answered when it was last needed; null if it was not yet.",
    )


class SwitchModelResponse(WireModel):
    message: str
    model_name: str
    model_id: str
    load_time: float = Field(description="Seconds; 0 if it was already loaded.")


class UnloadModelResponse(WireModel):
    message: str
    model_name: str
    was_loaded: bool


SamplingOrigin = Literal["profile", "generation_config", "default"]


class SamplingValue(WireModel):
    value: int | float
    origin: SamplingOrigin


class ModelInfoResponse(WireModel):
    model_name: str
    model_id: str | None
    display_name: str
    loaded: bool
    status: LoadState
    architecture: str | None = None
    device: str | None = None
    dtype: str | None = Field(None, description="The number format in which it computes.")
    weights: str | None = Field(
        None,
        description="The number format of its layers' weights: float32, float16, bfloat16, int8 or int4. "
        "Of a GGUF file, the form that each type has: `int4 (Q4_K), int8 (Q6_K)`. "
        "`int8 (62% of the weights)`: the others, such as the experts of Llama 4, keep their bits.",
    )
    cache: CacheKind | None = Field(
        None,
        description="`packed`: one pass computes all sequences. `own`: each sequence has the cache of the "
        "architecture, and there are no draft tokens. `none`: there is no usable cache, so each token "
        "computes all earlier ones again, which is slow.",
    )
    cache_reason: str | None = Field(None, description="Why the model is not packed.")
    guessed_template: str | None = Field(
        None,
        description="The family whose chat template is used, because the GGUF file has none: `ChatML`, "
        "`Llama 3` or `Gemma`.",
    )
    draft: str | None = Field(None, description="The smaller model whose draft tokens it verifies.")
    parameters: int | None = None
    memory_bytes: int | None = None
    kv_cache_bytes: int | None = None
    context_length: int
    load_time: float | None = None
    sampling: dict[str, SamplingValue] | None = Field(
        None, description="The parameters of a request that sets none, and their origin; null if not loaded."
    )
    error: str | None = Field(None, description="Why the last load failed.")


class ModelHealth(WireModel):
    name: str
    status: LoadState
    model_id: str | None = None
    progress: LoadProgress | None = None
    error: str | None = None


ServerState = Literal["ok", "loading", "degraded", "unavailable"]


class HealthResponse(WireModel):
    status: ServerState = Field(
        description="`degraded` while a worker that failed is started again, or the database fails."
    )
    timestamp: datetime
    uptime: float
    version: str
    boot_id: str = Field(
        description="Differs at every start, so a client can see that conversations were lost."
    )
    current_model: str | None
    model: ModelHealth | None
    loading: list[LoadProgress]
    storage_error: str | None = Field(None, description="Why conversations cannot be stored now.")
    note: str | None = Field(None, description="Why a model other than the default answers.")
    active_requests: int
    queued_requests: int
