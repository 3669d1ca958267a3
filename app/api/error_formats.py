"""Writes an error in the form of the API to which the request belongs."""

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus

from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.anthropic.errors import anthropic_error
from app.api.openai.wire import ErrorBody, OpenAIError
from app.api.paths import ANTHROPIC_PREFIX, MODELS_PATH, OPENAI_PREFIX, is_below, path_below_prefix
from app.models.schemas import ErrorDetail, ErrorResponse

_OPENAI_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_OPENAI_CODES = {"not_authenticated": "invalid_api_key", "rate_limit_exceeded": "rate_limit_exceeded"}

_FIELDS = re.compile(r"[\w.\[\]]+(, [\w.\[\]]+)*")

ErrorFormat = Callable[[ErrorDetail, int], tuple[int, BaseModel]]


class ErrorReply(Response):
    """An error response. Its form depends on the request that it answers."""

    media_type = "application/json"

    def __init__(self, status: int, body: ErrorResponse, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status_code=status, headers=headers)
        self.error = body.error

    def for_request(self, scope: Scope) -> Response:
        """Returns the response to this request."""
        form = _format_for(scope)
        status, body = form(self.error, self.status_code)
        headers = {name: value for name, value in self.headers.items() if not name.startswith("content-")}
        content = body.model_dump_json(exclude_none=form is not openai_error)
        return Response(content, status, headers, self.media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.for_request(scope)(scope, receive, send)


def _format_for(scope: Scope) -> ErrorFormat:
    """Returns the form of the errors of this request. The list of models belongs to two APIs."""
    path = path_below_prefix(scope)
    if is_below(path, MODELS_PATH) and "anthropic-version" in Headers(scope=scope):
        return anthropic_error
    if is_below(path, ANTHROPIC_PREFIX):
        return anthropic_error
    return openai_error if is_below(path, OPENAI_PREFIX) else _native


def _native(error: ErrorDetail, status: int) -> tuple[int, BaseModel]:
    return status, ErrorResponse(error=error)


def openai_error(error: ErrorDetail, status: int) -> tuple[int, BaseModel]:
    """Returns OpenAI's form. A wrong field is 400 there, and the message is all that people see."""
    is_wrong_field = status == HTTPStatus.UNPROCESSABLE_ENTITY
    status = HTTPStatus.BAD_REQUEST if is_wrong_field else status
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = ErrorBody(
        message=error.message if error.hint is None else f"{error.message.rstrip('.')}. {error.hint}",
        type=kind,
        param=_param(error.message) if status == 400 else None,
        code=_OPENAI_CODES.get(error.code, error.code),
    )
    return status, OpenAIError(error=body)


def _param(message: str) -> str | None:
    """Returns the field, or the fields, that the message names at its beginning, as `field: cause`."""
    fields, colon, _ = message.partition(": ")
    return fields if colon and _FIELDS.fullmatch(fields) else None
