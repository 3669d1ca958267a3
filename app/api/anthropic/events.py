"""Encodes the events of Anthropic's streams."""

from fastapi.sse import format_sse_event
from pydantic import BaseModel

from app.api.anthropic.errors import anthropic_error
from app.api.anthropic.replies import StreamEvent
from app.api.errors import status_of_code
from app.models.schemas import ErrorResponse

# An event, because the clients count no comment as a sign of life.
PING = format_sse_event(event="ping", data_str='{"type": "ping"}')
# These characters end no line in SSE, but they do for many readers, such as Python's splitlines.
_LINE_ENDS = str.maketrans({"\x85": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})


def encode(event: BaseModel, event_id: int | None) -> bytes:
    """Returns one frame. These streams have no ids."""
    assert event_id is None, "a message is no turn"
    if isinstance(event, ErrorResponse):
        _, event = anthropic_error(event.error, status_of_code(event.error.code))
    assert isinstance(event, StreamEvent)
    return format_sse_event(event=event.type, data_str=event.model_dump_json().translate(_LINE_ENDS))
