"""The messages between the API process and a worker, and their encoding (MessagePack, not pickle).

Both ends import this module and nothing else of each other.
"""

from collections.abc import Callable
from typing import Literal

import msgspec

from app.core.literals import CacheKind, Device, DType, FinishReason, LogFormat, LogLevel, Quantization, Role

DeltaKind = Literal["text", "thinking", "tool_call"]
Stage = Literal["import", "convert", "load", "check", "pack", "warm up"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of every message: immutable and tagged with its class name."""


class WorkerSpec(Record, frozen=True):
    """The settings with which a worker serves a model. `model_path` is a local folder; nothing is fetched."""

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


# API process -> worker


class ToolCall(Record, frozen=True):
    """A call in an assistant's message. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class ChatMessage(Record, frozen=True):
    """A message. One with the role `tool` has the result of the call `tool_call_id`."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Tool(Record, frozen=True):
    """A function that the model may call. `parameters` is a JSON schema, as text.

    With `is_strict` the arguments of a call validate against it also where nothing demanded the call.
    """

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'
    is_strict: bool = False


class ToolUse(Record, frozen=True):
    """The tools of a request, and whether the reply may, must not or must be calls of them.

    With a `name` the reply must be a call of that tool. Without `is_parallel` it has one call at most.
    """

    tools: tuple[Tool, ...]
    choice: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    is_parallel: bool = True


class SamplingParams(Record, frozen=True):
    """How to sample a reply, within the bounds of core/sampling.py. `temperature` 0 means greedy sampling.

    `left_to_engine` names the parameters that nobody set, for which a remote engine has defaults of its own.
    """

    max_tokens: int | None = None  # None: the rest of the context window
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # as in transformers and llama.cpp: over prompt and reply
    presence_penalty: float = 0.0  # as in OpenAI's API: over the reply
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()  # in addition to the model's own
    include_stop_str_in_output: bool = (
        False  # whether the reply's text includes the stop string or token that ended it
    )
    ignore_eos: bool = False  # whether the model's own stop ids have no effect
    min_tokens: int = 0  # the reply ends neither at a stop id nor at a stop string before it has these
    bad_words: tuple[str, ...] = ()  # texts that the reply never contains
    logit_bias: dict[int, float] = {}  # by token id
    top_logprobs: int | None = None  # most likely tokens reported beside each token; None: no probabilities
    left_to_engine: tuple[str, ...] = ()


class Grammar(Record, frozen=True):
    """The form of a reply's text. `source` is a JSON schema, nothing, a regular expression, a JSON list of
    texts, or a Lark grammar."""

    kind: Literal["json_schema", "json", "regex", "choice", "lark"]
    source: str = ""


class Submit(Record, frozen=True):
    """One request: chat `messages` (rendered with the template) or a raw `prompt`, exactly one of them.

    With `continue_final_message` the reply continues the last message, which is the assistant's. Keys and
    values are reused only within one `scope`. `think` None leaves a reasoning model's thinking off if its
    template has a switch. `is_kept`: whether its keys and values are kept after its end.
    """

    request_id: str
    sampling: SamplingParams
    messages: tuple[ChatMessage, ...] | None = None
    prompt: str | None = None
    continue_final_message: bool = False
    scope: str = ""
    think: bool | None = None
    is_kept: bool = True
    prompt_logprobs: bool = False  # whether the prompt's tokens are reported as the reply's are
    grammar: Grammar | None = None  # of the text after the thinking
    tool_use: ToolUse | None = None
    thinking_budget: int | None = None  # tokens after which the thinking is closed; None: no limit
    wants_thinking: bool = False  # a hint, which counts only if `think` is None


class Cancel(Record, frozen=True):
    request_id: str


class Shutdown(Record, frozen=True):
    pass


class Tokenize(Record, frozen=True):
    """Asks for the tokens of a text, with those that the tokenizer adds to a prompt if wanted."""

    request_id: str
    text: str
    adds_special_tokens: bool = True


class Detokenize(Record, frozen=True):
    """Asks for the text of tokens."""

    request_id: str
    token_ids: tuple[int, ...]
    skips_special_tokens: bool = False


class CountTokens(Record, frozen=True):
    """Asks how many tokens the prompt of a request would have, as the model would see it."""

    request_id: str
    submit: Submit


TokenQuestion = Tokenize | Detokenize | CountTokens
Inbound = Submit | Cancel | Shutdown | Tokenize | Detokenize | CountTokens


# worker -> API process


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
    card_bytes: int | None = None  # total memory of the graphics card; None: on the host


class Ready(Record, frozen=True):
    info: ModelInfo


class LoadFailed(Record, frozen=True):
    """The model cannot be served. `code` belongs to a class in core.errors."""

    code: str
    message: str
    hint: str | None = None
    retry_after: int | None = None  # seconds


class Accepted(Record, frozen=True):
    """The request is valid and queued; it can no longer be refused."""

    request_id: str
    prompt_tokens: int | None  # None: a remote engine tells it at the end
    omitted_messages: int  # oldest messages left out of the prompt to fit the window
    max_tokens: int  # limit of the reply, within the context window


class TokenLogprob(Record, frozen=True):
    """A token and the natural logarithm of its probability, before penalties and temperature.

    The prompt's first token has none. `top` are the most likely tokens at its place, the likeliest first.
    """

    token_id: int
    token_bytes: bytes
    logprob: float | None
    top: tuple["TokenLogprob", ...] = ()


class PromptLogprobs(Record, frozen=True):
    """The next tokens of the prompt, if they were asked for. They come before the reply's deltas."""

    request_id: str
    tokens: tuple[TokenLogprob, ...]


class ToolCallRef(Record, frozen=True):
    """The call to which a piece of arguments belongs. `index` counts the calls of the reply."""

    index: int
    id: str
    name: str


class Delta(Record, frozen=True):
    """A piece of a reply that is final and safe to show. Only the first of a tool call may be empty.

    The deltas of each kind concatenate to that part of the reply; thinking comes before text. Those of each
    `tool_call` concatenate to its arguments, as JSON text. `logprobs` are
    those of the tokens whose text begins in this piece, if they were asked for.
    """

    request_id: str
    text: str
    tokens: int  # completion tokens so far
    kind: DeltaKind = "text"
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_call: ToolCallRef | None = None


class Deltas(Record, frozen=True):
    """The deltas of one engine step."""

    items: tuple[Delta, ...]


class TokenCounts(Record, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # tokens of the prompt that were taken from the KV cache
    reasoning_tokens: int = 0  # tokens of the completion that are thinking or its marks


class RequestTimings(Record, frozen=True):
    """Seconds since the request arrived in the worker."""

    queue_s: float
    first_token_s: float
    total_s: float


class Tokens(Record, frozen=True):
    request_id: str
    token_ids: tuple[int, ...]
    token_bytes: tuple[bytes, ...]


class DetokenizedText(Record, frozen=True):
    request_id: str
    text: str


class TokenCount(Record, frozen=True):
    request_id: str
    tokens: int


TokenAnswer = Tokens | DetokenizedText | TokenCount


class Finished(Record, frozen=True):
    """The reply is complete. `matched_stop` is the stop string of the request that ended it, if one did."""

    request_id: str
    finish_reason: FinishReason
    usage: TokenCounts
    timings: RequestTimings
    matched_stop: str | None = None


class Failed(Record, frozen=True):
    request_id: str
    code: str
    message: str
    hint: str | None = None


class Stats(Record, frozen=True):
    """Figures of the engine, sent about every half second between steps, also when it is idle.

    The last five count from the engine's start.
    """

    running: int
    waiting: int
    kv_used_bytes: int
    kv_cache_bytes: int
    memory_bytes: int
    steps: int
    preemptions: int = 0
    drafts: int = 0  # sequences of draft tokens that were verified
    draft_tokens: int = 0
    accepted_tokens: int = 0


SendProgress = Callable[[Progress], None]
Outbound = (
    Progress
    | Ready
    | LoadFailed
    | Accepted
    | PromptLogprobs
    | Deltas
    | Tokens
    | DetokenizedText
    | TokenCount
    | Finished
    | Failed
    | Stats
)

encode = msgspec.msgpack.Encoder().encode
decode_inbound = msgspec.msgpack.Decoder(Inbound).decode
decode_outbound = msgspec.msgpack.Decoder(Outbound).decode
