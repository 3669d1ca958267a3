"""Encodes the parts of OpenAI's streams, which are events without names."""

from fastapi.sse import format_sse_event
from pydantic import BaseModel

from app.api.error_formats import openai_error
from app.api.errors import status_of_code
from app.api.openai.chat_replies import EndOfStream
from app.models.schemas import ErrorResponse

# These characters end no line in SSE, but they do for many readers, such as Python's splitlines.
_LINE_ENDS = str.maketrans({"\x85": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})


def encode(event: BaseModel, event_id: int | None) -> bytes:
    """Returns one frame: a chunk, an error, or the mark at the end. OpenAI's streams have no ids."""
    assert event_id is None, "a completion is not a turn"
    if isinstance(event, EndOfStream):
        return format_sse_event(data_str="[DONE]")
    if isinstance(event, ErrorResponse):
        _, event = openai_error(event.error, status_of_code(event.error.code))
    return format_sse_event(data_str=event.model_dump_json().translate(_LINE_ENDS))
