"""Encodes the events of Anthropic's streams."""

from fastapi.sse import format_sse_event
from pydantic import BaseModel

from app.api.anthropic.errors import anthropic_error
from app.api.anthropic.replies import StreamEvent
from app.api.errors import status_of_code
from app.api.streaming import json_frame
from app.models.schemas import ErrorResponse

# An event, because the clients count no comment as a sign of life.
PING = format_sse_event(event="ping", data_str='{"type": "ping"}')


def encode(event: BaseModel, event_id: int | None) -> bytes:
    """Returns one frame. These streams have no ids."""
    assert event_id is None, "a message is not a turn"
    if isinstance(event, ErrorResponse):
        _, event = anthropic_error(event.error, status_of_code(event.error.code))
    assert isinstance(event, StreamEvent)
    return json_frame(event.model_dump_json(), event.type)
