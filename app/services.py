"""Defines the services that the HTTP handlers use.

The stand-ins of the tests implement the same Protocols.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.core.deadline import Deadline
from app.core.telemetry.tracer import NoTracer, Tracer
from app.engine.backend import ModelInput
from app.models.branches import StoredBranch
from app.models.chat.completion import GenerateEvent
from app.models.choices import ChoiceEvent
from app.models.conversation import Conversation
from app.models.key_limits import KeyLimits
from app.models.lifecycle.switch import LoadEvent
from app.models.metrics.reporter import MetricsReporter
from app.models.schemas import (
    ActivityResponse,
    ChatRequest,
    ContinueRequest,
    ConversationListResponse,
    ConversationResponse,
    CountRequest,
    CountResponse,
    DeletedResponse,
    DetokenizeRequest,
    DetokenizeResponse,
    EditRequest,
    ForkConversationRequest,
    GenerateRequest,
    HealthResponse,
    InputMessage,
    ModelInfoResponse,
    ModelListResponse,
    NewChatRequest,
    NewChatResponse,
    RegenerateRequest,
    RunningTurnsResponse,
    SamplingFields,
    SelectResponse,
    StopTurnResponse,
    TokenizeRequest,
    TokenizeResponse,
    UndoResponse,
    UnloadModelResponse,
    UpdateConversationRequest,
)
from app.models.storage.store import PageRequest
from app.models.turns.turn_log import EventReader, TurnSnapshot


class ChatService(Protocol):
    """Runs the turns of conversations. A reader may raise any error of its request, too."""

    async def chat(
        self,
        owner: str,
        request: ChatRequest,
        deadline: Deadline,
        key: str | None = None,
        /,
        *,
        echo: str | None = None,
        chosen_id: str | None = None,
    ) -> EventReader:
        """A new conversation gets the id that the client has chosen, unless one has it already."""

    async def edit(
        self, owner: str, conversation_id: str, request: EditRequest, deadline: Deadline, /
    ) -> EventReader: ...

    async def regenerate(
        self, owner: str, conversation_id: str, request: RegenerateRequest, deadline: Deadline, /
    ) -> EventReader: ...

    async def continue_reply(
        self, owner: str, conversation_id: str, request: ContinueRequest, deadline: Deadline, /
    ) -> EventReader: ...

    def running(self, owner: str, /) -> RunningTurnsResponse:
        """Returns the owner's turns that run in this process."""

    async def events(
        self, owner: str, message_id: str, after: int, /, *, is_here: bool = False
    ) -> EventReader:
        """Returns a reader of a turn that runs, or has ended a short time ago.

        With `is_here`, a turn that runs in another process is not found.
        """

    async def snapshot(self, owner: str, message_id: str, /) -> TurnSnapshot:
        """Returns such a turn as it is now."""

    async def stop(self, owner: str, message_id: str, /, *, is_here: bool = False) -> StopTurnResponse: ...

    async def close(self) -> None:
        """Stops all turns, and commits what was said."""


class ConversationService(Protocol):
    """Manages stored conversations."""

    async def new(
        self, owner: str, request: NewChatRequest, chosen_id: str | None = None, /
    ) -> NewChatResponse: ...

    async def get(
        self, owner: str, conversation_id: str, /, *, is_tree: bool = False
    ) -> ConversationResponse: ...

    async def list(self, owner: str, page: PageRequest, /) -> ConversationListResponse: ...

    async def update(
        self, owner: str, conversation_id: str, request: UpdateConversationRequest, /
    ) -> ConversationResponse: ...

    async def delete(self, owner: str, conversation_id: str, /) -> DeletedResponse: ...

    async def undo(self, owner: str, conversation_id: str, turns: int, /) -> UndoResponse: ...

    async def select(self, owner: str, conversation_id: str, message_id: str, /) -> SelectResponse: ...

    async def fork(
        self, owner: str, conversation_id: str, request: ForkConversationRequest, /
    ) -> NewChatResponse: ...


class BranchService(Protocol):
    """Reads and changes the messages of stored conversations."""

    async def read(
        self, owner: str, conversation_id: str, message_id: str | None = None, /
    ) -> StoredBranch: ...

    async def begin(
        self,
        owner: str,
        system_prompt: str,
        messages: Sequence[InputMessage],
        metadata: dict[str, str],
        chosen_id: str | None = None,
        /,
    ) -> StoredBranch: ...

    async def add(
        self, owner: str, conversation_id: str, messages: Sequence[InputMessage], /
    ) -> StoredBranch: ...

    async def remove(
        self, owner: str, conversation_id: str, message_id: str, part: int | None = None, /
    ) -> Conversation: ...

    async def forget_reply(
        self, owner: str, conversation_id: str, message_id: str, /, *, deletes_all: bool
    ) -> None: ...


class GenerationService(Protocol):
    """Continues raw prompts, without a conversation."""

    def generate(
        self, owner: str, request: GenerateRequest, deadline: Deadline, /
    ) -> AsyncGenerator[GenerateEvent, None]: ...


class ChoiceService(Protocol):
    """Generates one or several replies without a conversation."""

    def generate(
        self,
        model_input: ModelInput,
        sampling: SamplingFields,
        model_name: str | None,
        deadline: Deadline,
        count: int = 1,
        *,
        may_omit: bool = False,
    ) -> AsyncGenerator[ChoiceEvent, None]: ...


class TokenService(Protocol):
    """Tokenises, detokenises and counts as a model does."""

    async def tokenize(self, request: TokenizeRequest, deadline: Deadline, /) -> TokenizeResponse: ...

    async def detokenize(self, request: DetokenizeRequest, deadline: Deadline, /) -> DetokenizeResponse: ...

    async def count(self, request: CountRequest, deadline: Deadline, /) -> CountResponse: ...

    async def count_input(
        self, model_input: ModelInput, model_name: str | None, deadline: Deadline, /
    ) -> CountResponse: ...


class ModelService(Protocol):
    """Loads, switches and unloads models."""

    async def start(self) -> None:
        """Starts loading the current model and returns without waiting for it."""

    async def close(self) -> None:
        """Ends every load and every worker. Open requests end with ShuttingDown."""

    def switch(self, name: str, /) -> AsyncGenerator[LoadEvent, None]: ...

    def load(self, name: str | None, /) -> AsyncGenerator[LoadEvent, None]: ...

    async def unload(self, name: str | None, /) -> UnloadModelResponse: ...


class StatusService(Protocol):
    """Reports the state of the server and its models, without changing it."""

    async def list_models(self) -> ModelListResponse: ...

    def info(self, name: str | None = None, /) -> ModelInfoResponse: ...

    def is_ready(self) -> bool: ...

    def health(self) -> HealthResponse: ...


class MetricsService(Protocol):
    """Counts requests over HTTP, and reports all figures."""

    def count_http(self, surface: str, status: int, seconds: float, /) -> None: ...

    def activity(self, owner: str, /) -> ActivityResponse: ...

    async def report(self) -> bytes:
        """Returns the figures as text for Prometheus."""


class StorageService(Protocol):
    """Keeps the conversations."""

    async def start(self) -> None:
        """Opens the storage. If that fails, it is tried again while the server runs."""

    async def close(self) -> None:
        """Closes the storage. Call it after the last turn has ended."""


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one application."""

    models: ModelService
    chats: ChatService
    conversations: ConversationService
    branches: BranchService
    generator: GenerationService
    choices: ChoiceService
    tokens: TokenService
    status: StatusService
    storage: StorageService
    limits: KeyLimits
    request_timeout_s: float
    metrics: MetricsService = field(default_factory=MetricsReporter)
    tracer: Tracer = field(default_factory=NoTracer)
