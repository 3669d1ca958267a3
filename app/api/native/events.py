"""Encodes the events of /api/v1 as server-sent events with names."""

from collections.abc import Mapping

from pydantic import BaseModel

from app.api.streaming import json_frame
from app.models.schemas import (
    DeltaEvent,
    ErrorResponse,
    LoadProgress,
    StartEvent,
    ThinkingEvent,
    ToolCallEvent,
)

_NAMES: Mapping[type[BaseModel], str] = {
    StartEvent: "start",
    DeltaEvent: "delta",
    ThinkingEvent: "thinking",
    ToolCallEvent: "tool_call",
    LoadProgress: "progress",
    ErrorResponse: "error",
}


def encode(event: BaseModel, event_id: int | None = None) -> bytes:
    """Returns one frame. A model that is not listed as an event is the reply itself, named `done`."""
    name = _NAMES.get(type(event), "done")
    data = event.model_dump_json(exclude_none=name in ("error", "delta"))
    return json_frame(data, name, event_id)
