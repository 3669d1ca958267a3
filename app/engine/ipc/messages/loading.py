"""The messages of a worker's start: its settings, the progress of its load, and how that ends."""

from collections.abc import Callable
from typing import Literal

from app.core.literals import CacheKind, Device, DType, LogFormat, LogLevel, Quantization
from app.engine.ipc.messages.record import Record

Stage = Literal["import", "convert", "load", "check", "pack", "warm up"]


class WorkerSpec(Record, frozen=True):
    """The settings with which a worker serves a model. `model_path` is a local folder or GGUF file."""

    model_path: str
    model_name: str
    adapter_path: str | None = None  # local folder of a PEFT adapter that is merged into the weights
    device: Device = "cpu"
    dtype: DType = "auto"
    quantization: Quantization = "none"
    threads: int | None = None  # None: one per core
    context_length: int | None = None  # tokens; None: the model's own window
    max_active_requests: int = 32  # sequences that decode together
    step_tokens: int | None = None  # most tokens in one forward pass; None: as the device needs
    kv_cache_bytes: int | None = None  # None: a share of the memory that is free
    chat_template: str | None = None  # Jinja; used if the tokenizer has none
    stop: tuple[str, ...] = ()  # stop strings of the chat format
    draft_path: str | None = None  # local folder of the draft model
    draft_name: str | None = None
    log_level: LogLevel = "INFO"
    log_format: LogFormat = "text"
    converts_to: str | None = None  # folder for `pytorch_model.bin` as safetensors; None: refuse pickles
    low_priority: bool = False  # for the load, because another model is answering


class Progress(Record, frozen=True):
    """A measured fraction (0 to 1) of one stage of loading."""

    stage: Stage
    fraction: float


class ModelInfo(Record, frozen=True):
    architecture: str
    device: str
    dtype: str  # in which it computes
    weights: str  # the form of the layers' weights: float32, bfloat16, float16, int8, int4, or
    # those in which the blocks of a GGUF file are kept, such as `int4 (Q4_K), int8 (Q6_K)`
    parameters: int
    context_length: int  # tokens
    memory_bytes: int  # see MemoryUse
    kv_cache_bytes: int  # the budget
    load_seconds: float
    draft: str | None = None  # name of the draft model in use
    cache: CacheKind | None = None  # None: of a remote engine, which does not say
    cache_reason: str | None = None  # why it is not packed
    guessed_template: str | None = None  # the family whose chat template is used, because the file has none
    card_bytes: int | None = None  # total memory of the graphics card; None: on the host


class Ready(Record, frozen=True):
    info: ModelInfo


class LoadFailed(Record, frozen=True):
    """The model cannot be served. `code` belongs to a class in core.errors."""

    code: str
    message: str
    hint: str | None = None
    retry_after: int | None = None  # seconds


SendProgress = Callable[[Progress], None]
