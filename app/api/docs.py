"""Completes the OpenAPI schema with parts that the handlers do not imply: descriptions, errors, streams and
the field for the key."""

import re
from collections.abc import Mapping
from typing import Any

from fastapi import Security
from fastapi.params import Depends
from fastapi.security import APIKeyHeader, HTTPBearer

from app.api.error_formats import ErrorFormat
from app.models.schemas import ErrorDetail, ErrorResponse

ResponseDocs = dict[int | str, dict[str, Any]]  # Any: OpenAPI's response objects, as FastAPI types them

DESCRIPTION = """
Serves Hugging Face language models over HTTP and stores conversations.

**First steps:** open `POST /api/v1/chat` and press *Execute*. The reply contains a `conversation_id`. Send it
with your next message to continue the conversation.

**Streams:** with `"stream": true` the reply is `text/event-stream`: a `start` event, `delta` events, and at
the end either `done`, which contains the whole JSON reply, or `error`. While the model is loading, `progress`
events come first. The `thinking` events of a reasoning model come before its deltas. This page shows a stream
only after it has ended.

**Errors** always have the same shape: `{"error": {"code", "message", "hint"?, "retry_after"?}}`.
"""

TAGS = [
    {"name": "Chat", "description": "Conversations, which the server stores."},
    {
        "name": "OpenAI",
        "description": "OpenAI's API, for clients that speak it. Nothing is stored.",
    },
    {
        "name": "OpenAI: responses",
        "description": "OpenAI's responses. They are replies of the same stored conversations as those of "
        "`/api/v1/chat`.",
    },
    {
        "name": "OpenAI: conversations",
        "description": "The same stored conversations, with their messages as items.",
    },
    {
        "name": "Anthropic",
        "description": "Anthropic's API, for clients that speak it. Nothing is stored.",
    },
    {"name": "Models", "description": "The models of the server: list, describe, switch, load, unload."},
    {"name": "Generation", "description": "Text that continues a prompt, without a conversation."},
    {"name": "Tokens", "description": "Texts as a model's tokens, and the other way round."},
    {
        "name": "Health",
        "description": "The state of the server, for people and probes. These routes need no key.",
    },
]

_CHAT_STREAM = """event: start
data: {"conversation_id": "conv_...", "message_id": "msg_...", "model_name": "builtin", "model_id": "...", \
"prompt_tokens": 21, "omitted_messages": 0}
id: 1

event: delta
data: {"text": "The capital of France"}
id: 2

event: delta
data: {"text": " is Paris."}
id: 3

event: done
data: {"response": "The capital of France is Paris.", ...}
id: 4
"""

_SWITCH_STREAM = """event: progress
data: {"model_name": "gpt2", "stage": "download", "fraction": 0.42, "done_bytes": 230000000, \
"total_bytes": 551000000, "bytes_per_s": 21000000.0, "seconds_left": 15.3, "files": [...]}

event: done
data: {"message": "Successfully switched to gpt2", "model_name": "gpt2", "model_id": "...", "load_time": 3.1}
"""

_CHUNKS = """data: {"id": "chatcmpl-...", "object": "chat.completion.chunk", "choices": [...], ...}

data: [DONE]
"""

_MESSAGE_STREAM = """event: message_start
data: {"type": "message_start", "message": {"id": "msg_...", ...}}

event: message_stop
data: {"type": "message_stop"}
"""

_RESPONSE_STREAM = """event: response.created
data: {"type": "response.created", "sequence_number": 0, "response": {...}}

event: response.completed
data: {"type": "response.completed", "sequence_number": 9, "response": {...}}
"""

_LOAD_STREAM = _SWITCH_STREAM.replace("Successfully switched to gpt2", "gpt2 is loaded")

_ERRORS: Mapping[int, tuple[str, str, str]] = {
    400: ("The request is invalid.", "invalid_request", "The body is not valid UTF-8."),
    401: ("The API key is missing or wrong.", "not_authenticated", "This server requires an API key."),
    404: (
        "The conversation, message, turn or model does not exist.",
        "conversation_not_found",
        "No conversation has this id.",
    ),
    403: (
        "Only the keys that LLM_ADMINS names may do this.",
        "not_permitted",
        "Only an administrator may load, unload or switch models.",
    ),
    409: ("The conversation or model is in use.", "conversation_busy", "The conversation is busy."),
    413: ("The body is too large.", "body_too_large", "The body is larger than 1000000 bytes."),
    415: (
        "The body is not JSON.",
        "unsupported_media_type",
        "The header Content-Type must be application/json.",
    ),
    422: (
        "A field or parameter is invalid.",
        "validation_error",
        "temperature: Input should be less than or equal to 2",
    ),
    429: (
        "The queue is full, or a limit of the key is reached. The header Retry-After says when to try again.",
        "queue_full",
        "The queue is full.",
    ),
    503: (
        "The model cannot serve. The message says why.",
        "model_load_failed",
        "The model could not be loaded.",
    ),
    504: (
        "The request took longer than LLM_REQUEST_TIMEOUT.",
        "deadline_exceeded",
        "The reply was not finished in time.",
    ),
}


def fails_with(*statuses: int) -> ResponseDocs:
    """Documents the error responses of a route, each with an example."""
    return {status: _error(*_ERRORS[status]) for status in statuses}


def fails_as(form: ErrorFormat) -> ResponseDocs:
    """Documents the errors of a route whose API has a form of its own for them."""
    return {
        "4XX": _in_form(form, 422, "The request is wrong, or is refused."),
        "5XX": _in_form(form, 503, "The model cannot serve. The message says why."),
    }


def _in_form(form: ErrorFormat, status: int, description: str) -> dict[str, Any]:
    _, code, message = _ERRORS[status]
    _, body = form(ErrorDetail(code=code, message=message), status)
    content = {"application/json": {"example": body.model_dump()}}
    return {"model": type(body), "description": description, "content": content}


def _error(description: str, code: str, message: str) -> dict[str, Any]:
    example = {"error": {"code": code, "message": message}}
    content = {"application/json": {"example": example}}
    return {"model": ErrorResponse, "description": description, "content": content}


def _stream(example: str) -> ResponseDocs:
    content = {"text/event-stream": {"example": example}}
    return {200: {"description": 'The reply, or its events if `"stream"` is true.', "content": content}}


STREAMS_TURN = _stream(_CHAT_STREAM)
STREAMS_TEXT = _stream(re.sub(r"id: \d+\n", "", _CHAT_STREAM))
EVENTS: ResponseDocs = {
    200: {
        "description": "The rest of the turn's events.",
        "content": {"text/event-stream": {"example": _CHAT_STREAM}},
    },
    204: {"description": "The turn has ended, and there are no events after that one."},
}
STREAMS_CHUNKS = _stream(_CHUNKS)
STREAMS_MESSAGE = _stream(_MESSAGE_STREAM)
STREAMS_RESPONSE = _stream(_RESPONSE_STREAM)
STREAMS_SWITCH = _stream(_SWITCH_STREAM)
STREAMS_LOAD = _stream(_LOAD_STREAM)
TAKES_BODY = fails_with(400, 413, 415, 422)
REPLIES = TAKES_BODY | fails_with(404, 429, 503, 504)


def key_fields(has_key: bool) -> list[Depends]:
    """Returns dependencies that show the *Authorize* button on the page. middleware.py checks the key."""
    if not has_key:
        return []
    return [
        Security(HTTPBearer(auto_error=False)),
        Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
    ]


def key_refusal(has_key: bool) -> ResponseDocs:
    return fails_with(401) if has_key else {}
