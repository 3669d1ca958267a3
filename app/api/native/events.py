"""Encodes the events of /api/v1 as server-sent events with names."""

from collections.abc import Mapping

from fastapi.sse import format_sse_event
from pydantic import BaseModel

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
# These characters end no line in SSE, but they do for many readers, such as Python's splitlines.
_LINE_ENDS = str.maketrans({"\x85": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})


def encode(event: BaseModel, event_id: int | None = None) -> bytes:
    """Returns one frame. A model that is not listed as an event is the reply itself, named `done`."""
    name = _NAMES.get(type(event), "done")
    data = event.model_dump_json(exclude_none=name in ("error", "delta")).translate(_LINE_ENDS)
    return format_sse_event(event=name, data_str=data, id=None if event_id is None else str(event_id))
