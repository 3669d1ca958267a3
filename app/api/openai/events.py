"""Encodes the parts of OpenAI's streams, which are events without names."""

from fastapi.sse import format_sse_event
from pydantic import BaseModel

from app.api.error_formats import openai_error
from app.api.errors import status_of_code
from app.api.openai.chat_replies import EndOfStream
from app.api.streaming import json_frame
from app.models.schemas import ErrorResponse


def encode(event: BaseModel, event_id: int | None) -> bytes:
    """Returns one frame: a chunk, an error, or the mark at the end. OpenAI's streams have no ids."""
    assert event_id is None, "a completion is not a turn"
    if isinstance(event, EndOfStream):
        return format_sse_event(data_str="[DONE]")
    if isinstance(event, ErrorResponse):
        _, event = openai_error(event.error, status_of_code(event.error.code))
    return json_frame(event.model_dump_json())
