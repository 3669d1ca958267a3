"""The client of the server's API: a method for each route. Responses and event streams come back as typed
objects."""

from typing import Literal, Self
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from app.cli.errors import Refused
from app.cli.net.api_link import SILENCE_S, ApiLink
from app.cli.net.event_stream import CHAT_EVENTS, SWITCH_EVENTS, ResponseT, ServerEvents, StreamPosition
from app.models.schemas import (
    ActivityResponse,
    ChatRequest,
    ConversationListResponse,
    ConversationResponse,
    ConversationSummary,
    CountRequest,
    CountResponse,
    DeletedAllResponse,
    DeletedResponse,
    ForkConversationRequest,
    HealthResponse,
    ModelInfoResponse,
    ModelListResponse,
    NewChatRequest,
    NewChatResponse,
    RunningTurn,
    RunningTurnsResponse,
    SelectRequest,
    SelectResponse,
    StopTurnResponse,
    SwitchModelRequest,
    TurnFields,
    UndoRequest,
    UndoResponse,
    UpdateConversationRequest,
)

HEALTH_TIMEOUT_S = 3.0  # a healthy server answers within milliseconds, even under load
COUNT_TIMEOUT_S = 2.0  # nobody waits for a number while a model loads

Action = Literal["regenerate", "edit", "continue"]


class ChatClient:
    """Talks to one server. Methods raise ClientError only.

    Each request about a conversation is sent with its id as the `session_id`. A conversation that begins gets
    its id from there.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        setting: str = "",
        silence_s: float = SILENCE_S,
    ) -> None:
        """The arguments are those of ApiLink."""
        self._link = ApiLink(url, api_key, transport, setting, silence_s)

    @property
    def url(self) -> str:
        return self._link.url

    def move_to(self, url: str) -> None:
        """Uses another address from now on; the machine and the key stay the same."""
        self._link.move_to(url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._link.close()

    async def health(self) -> HealthResponse:
        return await self._link.call("GET", "/health", HealthResponse, timeout_s=HEALTH_TIMEOUT_S)

    async def activity(self) -> ActivityResponse:
        return await self._link.call("GET", "/activity", ActivityResponse, timeout_s=HEALTH_TIMEOUT_S)

    async def models(self) -> ModelListResponse:
        return await self._link.call("GET", "/chat/models", ModelListResponse)

    async def new_chat(self, request: NewChatRequest, session_id: str | None = None) -> NewChatResponse:
        return await self._link.call("POST", "/chat/new", NewChatResponse, request, session_id=session_id)

    async def conversation(self, conversation_id: str) -> ConversationResponse:
        """Returns the conversation with all its branches; from an older server, with the only one."""
        try:
            return await self._about(conversation_id, "GET", "?tree=true", ConversationResponse)
        except Refused as error:
            if error.code != "validation_error":
                raise
        return await self._about(conversation_id, "GET", "", ConversationResponse)

    async def conversations(self, query: str, limit: int) -> list[ConversationSummary]:
        """Returns the conversations with all words of the query, the most recently changed first."""
        search = f"&query={quote(query, safe='')}" if query else ""
        path = f"/chat/conversations?limit={limit}{search}"
        return (await self._link.call("GET", path, ConversationListResponse)).conversations

    async def delete(self, conversation_id: str) -> None:
        await self._about(conversation_id, "DELETE", "", DeletedResponse)

    async def delete_all(self) -> DeletedAllResponse:
        return await self._link.call("DELETE", "/chat/conversations", DeletedAllResponse)

    async def select(self, conversation_id: str, message_id: str) -> SelectResponse:
        request = SelectRequest(message_id=message_id)
        return await self._about(conversation_id, "POST", "/select", SelectResponse, request)

    async def fork(self, conversation_id: str, request: ForkConversationRequest) -> NewChatResponse:
        return await self._about(conversation_id, "POST", "/fork", NewChatResponse, request)

    async def update(self, conversation_id: str, request: UpdateConversationRequest) -> ConversationResponse:
        return await self._about(conversation_id, "PATCH", "", ConversationResponse, request)

    async def count_tokens(self, text: str) -> int:
        """Returns how many tokens the current model's tokenizer makes of the text."""
        request = CountRequest(prompt=text)
        return (await self._link.call("POST", "/count", CountResponse, request, COUNT_TIMEOUT_S)).tokens

    async def model_info(self, model_name: str) -> ModelInfoResponse:
        return await self._link.call("GET", f"/model-info?model_name={quote(model_name)}", ModelInfoResponse)

    async def undo(self, conversation_id: str, request: UndoRequest) -> UndoResponse:
        return await self._about(conversation_id, "POST", "/undo", UndoResponse, request)

    # The streams of turns record in `position` how far they were read.

    def chat(
        self, request: ChatRequest, position: StreamPosition | None = None, session_id: str | None = None
    ) -> ServerEvents:
        return self._turn("/chat", request, position, request.conversation_id or session_id)

    def answer(
        self, conversation_id: str, action: Action, request: TurnFields, position: StreamPosition
    ) -> ServerEvents:
        """Begins a turn about existing messages. `request` is the one of the action's route."""
        return self._turn(f"{_conversation(conversation_id)}/{action}", request, position, conversation_id)

    def turn_events(self, position: StreamPosition) -> ServerEvents:
        """Reads a turn that runs or has just ended, after the event that was read last."""
        after = f"?after={quote(position.last_id, safe='')}" if position.last_id else ""
        return self._turn(f"{_turn(position.message_id)}/events{after}", None, position, position.session_id)

    async def running_turns(self, session_id: str) -> list[RunningTurn]:
        """Returns the turns of this and other clients that run on the server, or on that of the session."""
        return (
            await self._link.call("GET", "/chat/turns", RunningTurnsResponse, session_id=session_id)
        ).turns

    async def stop_turn(self, message_id: str, session_id: str | None = None) -> StopTurnResponse:
        return await self._link.call("DELETE", _turn(message_id), StopTurnResponse, session_id=session_id)

    def switch(self, model_name: str) -> ServerEvents:
        request = SwitchModelRequest(model_name=model_name, stream=True)
        return self._link.stream("/chat/switch-model", request, SWITCH_EVENTS, StreamPosition())

    async def _about(
        self,
        conversation_id: str,
        method: str,
        below: str,
        model: type[ResponseT],
        body: BaseModel | None = None,
    ) -> ResponseT:
        """Sends a request to the conversation's own path, or to one below it."""
        path = f"{_conversation(conversation_id)}{below}"
        return await self._link.call(method, path, model, body, session_id=conversation_id)

    def _turn(
        self, path: str, body: BaseModel | None, position: StreamPosition | None, session_id: str | None
    ) -> ServerEvents:
        position = position or StreamPosition()
        position.session_id = session_id
        return self._link.stream(path, body, CHAT_EVENTS, position)


def _conversation(conversation_id: str) -> str:
    return f"/chat/conversation/{quote(conversation_id, safe='')}"


def _turn(message_id: str | None) -> str:
    return f"/chat/turns/{quote(message_id or '', safe='')}"
