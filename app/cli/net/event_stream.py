"""Reads server-sent events and errors of the server as typed objects."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import httpx
from httpx_sse import EventSource
from pydantic import BaseModel, ValidationError

from app.cli.errors import SAME_VERSION, ClientError, NotOurServer, Refused
from app.models.schemas import (
    ChatResponse,
    DeltaEvent,
    ErrorResponse,
    LoadProgress,
    StartEvent,
    SwitchModelResponse,
    ThinkingEvent,
)

NO_CONTENT = 204

ResponseT = TypeVar("ResponseT", bound=BaseModel)

ServerEvent = StartEvent | ThinkingEvent | DeltaEvent | ChatResponse | LoadProgress | SwitchModelResponse
ServerEvents = AsyncGenerator[ServerEvent, None]


@dataclass(slots=True)
class StreamPosition:
    """How far a turn's stream has been read. Without ids, as on an older server, it cannot be resumed.

    `session_id` is the id of the turn's conversation, which leads a load balancer to the server that runs it.
    """

    message_id: str | None = None
    last_id: str = ""
    session_id: str | None = None

    @property
    def can_resume(self) -> bool:
        return self.message_id is not None and bool(self.last_id)


CHAT_EVENTS: Mapping[str, type[ServerEvent]] = {  # others are ignored: a newer server may send them
    "start": StartEvent,
    "thinking": ThinkingEvent,
    "delta": DeltaEvent,
    "done": ChatResponse,
}
SWITCH_EVENTS: Mapping[str, type[ServerEvent]] = {"progress": LoadProgress, "done": SwitchModelResponse}


def parse(model: type[ResponseT], content: bytes | str) -> ResponseT:
    """Returns the object.

    Raises:
        NotOurServer: the content is something else.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise NotOurServer(
            f"The response does not match this client's API ({error.error_count()} differences).",
            SAME_VERSION,
        ) from None


def refusal(response: httpx.Response) -> ClientError:
    """Returns the error for a response that is no success."""
    try:
        return Refused(ErrorResponse.model_validate_json(response.content), response.status_code)
    except ValidationError:
        return NotOurServer(
            f"The server at {response.url.copy_with(path='/')} is not llm-serving "
            f"(HTTP {response.status_code}).",
            "Pass another address with --url.",
        )


async def read_events(
    source: EventSource, models: Mapping[str, type[ServerEvent]], position: StreamPosition
) -> ServerEvents:
    """Yields the events of a stream up to and including `done`. Raises an `error` event."""
    if not source.response.is_success:
        await source.response.aread()
        raise refusal(source.response)
    if source.response.status_code == NO_CONTENT:
        raise httpx.RemoteProtocolError("nothing follows")
    async for frame in source.aiter_sse():
        position.last_id = frame.id or position.last_id
        if frame.event == "error":
            raise Refused(parse(ErrorResponse, frame.data), None)
        if frame.event in models:
            yield parse(models[frame.event], frame.data)
        if frame.event == "done":
            return
    raise httpx.RemoteProtocolError("the stream ended early")
