"""The event streams of the scripted server."""

import json
from collections.abc import AsyncIterator

from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from app.models import schemas as wire
from tests.cli.stand_in.state import Refusal, UnknownEvent

_EVENTS = {
    wire.ThinkingEvent: "thinking",
    UnknownEvent: "unknown",
    wire.StartEvent: "start",
    wire.DeltaEvent: "delta",
    wire.LoadProgress: "progress",
}


async def _frames(events: AsyncIterator[tuple[int | None, BaseModel]]) -> AsyncIterator[str]:
    yield ": keep-alive\n\n"
    try:
        async for event_id, event in events:
            own_id = "" if event_id is None else f"id: {event_id}\n"
            name = _EVENTS.get(type(event), "done")
            yield f"event: {name}\n{own_id}data: {event.model_dump_json()}\n\n"
    except Refusal as refusal:
        yield f"event: error\ndata: {json.dumps(refusal.body)}\n\n"
    except ConnectionResetError:
        return


async def without_ids(events: AsyncIterator[BaseModel]) -> AsyncIterator[tuple[int | None, BaseModel]]:
    async for event in events:
        yield None, event


def stream(events: AsyncIterator[tuple[int | None, BaseModel]]) -> Response:
    return StreamingResponse(_frames(events), media_type="text/event-stream")
