"""Defines the events of a response's stream, and encodes them."""

from pydantic import BaseModel

from app.api.error_formats import openai_error
from app.api.errors import status_of_code
from app.api.openai.responses.items import OutputItem, OutputText, ReasoningText, TextLogprob
from app.api.openai.responses.reply import ResponseBody
from app.api.openai.wire import OpenAIError, SparseModel
from app.api.streaming import json_frame
from app.models.schemas import ErrorResponse


class ResponseStreamEvent(SparseModel, frozen=False):
    """`sequence_number` counts the events of a response from 0 on."""

    type: str
    sequence_number: int = 0


class ResponseEvent(ResponseStreamEvent):
    response: ResponseBody


class ItemEvent(ResponseStreamEvent):
    output_index: int
    item: OutputItem


class PieceEvent(ResponseStreamEvent):
    """A piece of an item, or the whole of it at its end. Which fields are set depends on the type."""

    item_id: str
    output_index: int
    content_index: int = 0
    part: OutputText | ReasoningText | None = None
    delta: str = ""
    text: str = ""
    logprobs: list[TextLogprob] = []
    name: str = ""
    arguments: str = ""


class FailureEvent(ResponseStreamEvent):
    """An error that is not the response's."""

    code: str | None
    message: str
    param: str | None


def encode(event: BaseModel, event_id: int | None) -> bytes:
    """Returns one frame, named after the type of the event. The events have no ids."""
    assert event_id is None, "the sequence number takes its place"
    if isinstance(event, ErrorResponse):
        event = _failure(event)
    assert isinstance(event, ResponseStreamEvent)
    return json_frame(event.model_dump_json(), event.type)


def _failure(error: ErrorResponse) -> FailureEvent:
    """Returns the event for a fault of this server, which has no number because it ended the numbering."""
    _, body = openai_error(error.error, status_of_code(error.error.code))
    assert isinstance(body, OpenAIError)
    return FailureEvent(
        type="error", code=body.error.code, message=body.error.message, param=body.error.param
    )
