"""Defines the interface between the services and the engine that serves a model."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, QueueFull
from app.engine.ipc.messages import (
    Accepted,
    ChatMessage,
    Delta,
    Finished,
    Grammar,
    ModelInfo,
    PromptLogprobs,
    RawPrompt,
    SamplingParams,
    Submit,
    Tokens,
    ToolUse,
)

GenerationEvent = Accepted | PromptLogprobs | Delta | Finished


@dataclass(frozen=True, slots=True)
class ModelInput:
    """Chat `messages`, which are rendered with the model's template, or a raw `prompt`: exactly one of them.

    With `continue_final_message` the reply continues the last message instead of answering it. `think`
    switches a reasoning model's thinking on or off; None leaves it off if the template has a switch, unless
    the request `wants_thinking`, which a model without thinking ignores. `thinking_budget` is the most tokens
    of thinking; as a hint (`is_budget_hint`), a remote engine ignores it. `is_kept` says whether later
    requests may use the keys and values of this one, which those of another `scope` never do. The scope is
    the owner of the request. With `prompt_logprobs` the log-probabilities of the prompt's tokens are
    reported; then the request itself takes no keys and values of earlier ones. The reply's text, after its
    thinking, has the form of the `grammar`.
    """

    messages: tuple[ChatMessage, ...] | None = None
    prompt: RawPrompt | None = None
    continue_final_message: bool = False
    think: bool | None = None
    is_kept: bool = True
    prompt_logprobs: bool = False
    grammar: Grammar | None = None
    tool_use: ToolUse | None = None
    thinking_budget: int | None = None
    scope: str = ""
    wants_thinking: bool = False
    is_budget_hint: bool = False

    def submit(self, request_id: str, sampling: SamplingParams) -> Submit:
        """Returns the request as a message to a worker."""
        return Submit(
            request_id,
            sampling,
            self.messages,
            self.prompt,
            self.continue_final_message,
            self.scope,
            self.think,
            self.is_kept,
            self.prompt_logprobs,
            self.grammar,
            self.tool_use,
            self.thinking_budget,
            self.wants_thinking,
        )


@dataclass(frozen=True, slots=True)
class EngineTotals:
    """What an engine has counted since its start."""

    preemptions: int = 0
    drafts: int = 0  # sequences of draft tokens that were verified
    draft_tokens: int = 0
    accepted_tokens: int = 0

    def __add__(self, other: "EngineTotals") -> "EngineTotals":
        return EngineTotals(
            self.preemptions + other.preemptions,
            self.drafts + other.drafts,
            self.draft_tokens + other.draft_tokens,
            self.accepted_tokens + other.accepted_tokens,
        )


@dataclass(frozen=True, slots=True)
class BackendStats:
    open_requests: int  # running and waiting together
    memory_bytes: int
    running: int = 0  # at most `open_requests`
    kv_used_bytes: int = 0
    kv_cache_bytes: int = 0
    totals: EngineTotals = EngineTotals()


class EngineBackend(Protocol):
    """Serves one model. It is ready from the start, and its owner must await `close`."""

    @property
    def info(self) -> ModelInfo:
        """Facts that stay the same as long as the model is loaded."""

    @property
    def stats(self) -> BackendStats:
        """The newest figures known."""

    @property
    def is_alive(self) -> bool:
        """False once the backend has ended or is being closed. One that is alive may still be stuck."""

    @property
    def failure(self) -> str | None:
        """The reason why the backend cannot serve, such as `ended (signal 9)`; None if it can."""

    def generate(
        self, model_input: ModelInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Yields Accepted, then PromptLogprobs if wanted, then Deltas, then Finished.

        Closing the generator cancels the request.

        Raises:
            QueueFull: before anything else, if too many requests are open.
            DeadlineExceeded: the deadline passed.
            WorkerDied: the backend ended.
            DomainError: the model refused the request, or could not finish it.
        """

    async def tokenize(self, text: str, deadline: Deadline, *, adds_special_tokens: bool = True) -> Tokens:
        """Returns the model's tokens of a text. Raises as `generate` does."""

    async def detokenize(
        self, token_ids: Sequence[int], deadline: Deadline, *, skips_special_tokens: bool = False
    ) -> str:
        """Returns the text of tokens. Raises as `generate` does."""

    async def count_tokens(self, model_input: ModelInput, deadline: Deadline) -> int:
        """Returns how many tokens the prompt has, as the model would see it. Raises as `generate` does."""

    async def close(self) -> None:
        """Ends the backend. Open requests end with ShuttingDown. May be called again."""


def queue_full(open_requests: int) -> QueueFull:
    """Returns the error of a backend that has as many open requests as it may have."""
    return QueueFull(
        f"{open_requests} requests are open, and the queue is full.",
        hint="Try again in a moment.",
        retry_after=1 + open_requests // 8,
    )


def deadline_exceeded() -> DeadlineExceeded:
    """Returns the error of a request whose deadline has passed."""
    return DeadlineExceeded(
        "The request took longer than the server allows.",
        hint="Ask for fewer tokens, or raise LLM_REQUEST_TIMEOUT.",
    )
