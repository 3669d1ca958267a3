"""Writes errors in the form of Anthropic's API."""

from collections.abc import Mapping
from http import HTTPStatus

from pydantic import BaseModel

from app.api.anthropic.replies import AnthropicError, AnthropicErrorBody
from app.models.schemas import ErrorDetail

_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(error: ErrorDetail, status: int) -> tuple[int, BaseModel]:
    """Returns the status and the body.

    If the prompt is too long, the message begins with words at which some clients shorten their history.
    """
    status = HTTPStatus.BAD_REQUEST if status == HTTPStatus.UNPROCESSABLE_ENTITY else status
    message = error.message if error.hint is None else f"{error.message.rstrip('.')}. {error.hint}"
    if error.code == "context_length_exceeded":
        message = f"prompt is too long: {message}"
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return status, AnthropicError(type="error", error=AnthropicErrorBody(type=kind, message=message))
