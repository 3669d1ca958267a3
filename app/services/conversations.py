"""Defines the services of turns, and of the conversations that they belong to."""

from collections.abc import Sequence
from typing import Protocol

from app.core.deadline import Deadline
from app.models.branches import StoredBranch
from app.models.conversation import Conversation
from app.models.schemas import (
    ChatRequest,
    ContinueRequest,
    ConversationListResponse,
    ConversationResponse,
    DeletedAllResponse,
    DeletedResponse,
    EditRequest,
    ForkConversationRequest,
    InputMessage,
    NewChatRequest,
    NewChatResponse,
    RegenerateRequest,
    RunningTurnsResponse,
    SelectRequest,
    SelectResponse,
    StopTurnResponse,
    UndoRequest,
    UndoResponse,
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
        """Stops all turns, and commits their text so far."""


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

    async def delete_all(self, owner: str, /) -> DeletedAllResponse: ...

    async def undo(self, owner: str, conversation_id: str, request: UndoRequest, /) -> UndoResponse: ...

    async def select(self, owner: str, conversation_id: str, request: SelectRequest, /) -> SelectResponse: ...

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
