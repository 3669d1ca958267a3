"""The messages from a worker that serves a model to the API process."""

from typing import Literal

from app.core.literals import FinishReason
from app.engine.ipc.messages.loading import LoadFailed, Progress, Ready
from app.engine.ipc.messages.record import Record

DeltaKind = Literal["text", "thinking", "tool_call"]


class Accepted(Record, frozen=True):
    """The request is valid and queued; it can no longer be refused."""

    request_id: str
    prompt_tokens: int | None  # None: a remote engine reports it at the end
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


TokenAnswer = Tokens | DetokenizedText | TokenCount
Outbound = (
    Progress
    | Ready
    | LoadFailed
    | Accepted
    | PromptLogprobs
    | Deltas
    | TokenAnswer
    | Finished
    | Failed
    | Stats
)
