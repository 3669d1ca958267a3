"""Owns the wire to the server: requests out, replies and event streams back as typed objects."""

from collections.abc import AsyncGenerator, Mapping
from typing import Self, TypeVar
from urllib.parse import quote

import httpx
from httpx_sse import EventSource, SSEError, aconnect_sse
from pydantic import BaseModel, ValidationError

from app.cli.errors import ClientError, NotOurServer, Refused, StreamBroken, Unreachable
from app.cli.net.address import address_of
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ContinueRequest,
    ConversationResponse,
    DeletedResponse,
    DeltaEvent,
    ErrorResponse,
    HealthResponse,
    LoadProgress,
    ModelInfoResponse,
    ModelListResponse,
    NewChatRequest,
    NewChatResponse,
    RegenerateRequest,
    StartEvent,
    SwitchModelRequest,
    SwitchModelResponse,
    ThinkingEvent,
    UndoRequest,
    UndoResponse,
)

CONNECT_TIMEOUT_S = 3.0
REPLY_TIMEOUT_S = 30.0
HEALTH_TIMEOUT_S = 3.0  # a server that is well answers within milliseconds, whatever it is at
SILENCE_TIMEOUT_S = 600.0  # until a model is loaded; a stream that has begun is kept alive

ResponseT = TypeVar("ResponseT", bound=BaseModel)

ServerEvent = StartEvent | ThinkingEvent | DeltaEvent | ChatResponse | LoadProgress | SwitchModelResponse
ServerEvents = AsyncGenerator[ServerEvent, None]

_CHAT_EVENTS: Mapping[str, type[ServerEvent]] = {  # others are passed over: a newer server may send them
    "start": StartEvent,
    "thinking": ThinkingEvent,
    "delta": DeltaEvent,
    "done": ChatResponse,
}
_SWITCH_EVENTS: Mapping[str, type[ServerEvent]] = {"progress": LoadProgress, "done": SwitchModelResponse}


def _parsed(kind: type[ResponseT], content: bytes | str) -> ResponseT:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise NotOurServer(
            f"The answer is not one that this client understands ({error.error_count()} differences).",
            "Client and server must be of one version.",
        ) from None


def _refusal(response: httpx.Response) -> ClientError:
    try:
        return Refused(ErrorResponse.model_validate_json(response.content), response.status_code)
    except ValidationError:
        return NotOurServer(
            f"What answers at {response.url.copy_with(path='/')} is no server of this program "
            f"(HTTP {response.status_code}).",
            "Name another address with --url.",
        )


class ChatClient:
    """Talks to one server. Every method raises ClientError and nothing else."""

    def __init__(
        self, url: str, api_key: str | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        address = address_of(url, api_key)
        self.url = address.url
        self._http = httpx.AsyncClient(
            base_url=f"{self.url}/api/v1",
            headers=address.headers,
            transport=transport,
            trust_env=address.is_remote,
            verify=address.is_encrypted,
        )

    def move_to(self, url: str) -> None:
        """Talks to another server of the same machine and key from here on."""
        self.url = address_of(url).url
        self._http.base_url = httpx.URL(f"{self.url}/api/v1")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def health(self) -> HealthResponse:
        return await self._call("GET", "/health", HealthResponse, timeout_s=HEALTH_TIMEOUT_S)

    async def models(self) -> ModelListResponse:
        return await self._call("GET", "/chat/models", ModelListResponse)

    async def new_chat(self, request: NewChatRequest) -> NewChatResponse:
        return await self._call("POST", "/chat/new", NewChatResponse, request)

    async def conversation(self, conversation_id: str) -> ConversationResponse:
        return await self._call("GET", f"/chat/conversation/{conversation_id}", ConversationResponse)

    async def delete(self, conversation_id: str) -> None:
        await self._call("DELETE", f"/chat/conversation/{conversation_id}", DeletedResponse)

    async def model_info(self, model_name: str) -> ModelInfoResponse:
        return await self._call("GET", f"/model-info?model_name={quote(model_name)}", ModelInfoResponse)

    async def undo(self, conversation_id: str, turns: int) -> UndoResponse:
        path = f"/chat/conversation/{conversation_id}/undo"
        return await self._call("POST", path, UndoResponse, UndoRequest(turns=turns))

    def chat(self, request: ChatRequest) -> ServerEvents:
        return self._stream("/chat", request, _CHAT_EVENTS)

    def regenerate(self, conversation_id: str, request: RegenerateRequest) -> ServerEvents:
        return self._stream(f"/chat/conversation/{conversation_id}/regenerate", request, _CHAT_EVENTS)

    def continue_reply(self, conversation_id: str, request: ContinueRequest) -> ServerEvents:
        return self._stream(f"/chat/conversation/{conversation_id}/continue", request, _CHAT_EVENTS)

    def switch(self, model_name: str) -> ServerEvents:
        request = SwitchModelRequest(model_name=model_name, stream=True)
        return self._stream("/chat/switch-model", request, _SWITCH_EVENTS)

    async def _call(
        self,
        method: str,
        path: str,
        kind: type[ResponseT],
        body: BaseModel | None = None,
        timeout_s: float = REPLY_TIMEOUT_S,
    ) -> ResponseT:
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            response = await self._http.request(method, path, json=_json(body), timeout=timeout)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if not response.is_success:
            raise _refusal(response)
        return _parsed(kind, response.content)

    async def _stream(
        self, path: str, body: BaseModel, kinds: Mapping[str, type[ServerEvent]]
    ) -> ServerEvents:
        timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        has_begun = False
        try:
            async with aconnect_sse(self._http, "POST", path, json=_json(body), timeout=timeout) as source:
                has_begun = True
                async for event in _events(source, kinds):
                    yield event
        except SSEError:
            raise NotOurServer(
                "The server sent no event stream.", "Client and server must be of one version."
            ) from None
        except httpx.HTTPError as error:
            if not has_begun:
                raise self._unreachable(error) from None
            raise StreamBroken(
                f"The connection to the server broke: {_break(error)}.",
                "What came is kept: /continue goes on from it, /retry asks again.",
            ) from None

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        return Unreachable(f"No server answers at {self.url} ({_cause(error)}).", "Is it running?")


async def _events(source: EventSource, kinds: Mapping[str, type[ServerEvent]]) -> ServerEvents:
    """The events of a stream up to its last, `done`. An `error` event is raised."""
    if not source.response.is_success:
        await source.response.aread()
        raise _refusal(source.response)
    async for frame in source.aiter_sse():
        if frame.event == "error":
            raise Refused(_parsed(ErrorResponse, frame.data), None)
        if frame.event in kinds:
            yield _parsed(kinds[frame.event], frame.data)
        if frame.event == "done":
            return
    raise httpx.RemoteProtocolError("it ended early")


def _json(body: BaseModel | None) -> object:
    return None if body is None else body.model_dump(mode="json", exclude_unset=True)


def _cause(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "it does not answer in time"
    if isinstance(error, httpx.ConnectError):
        return "connection refused"
    return "connection closed"


def _break(error: httpx.HTTPError) -> str:
    return "nothing came for too long" if isinstance(error, httpx.TimeoutException) else "it ended early"
