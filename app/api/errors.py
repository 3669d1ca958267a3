"""Owns THE table from exception class to status, and the one shape of every error body.

    {"error": {"code", "message", "hint"?, "retry_after"?}}

What is wrong is said in core/errors.py; this module only says it over HTTP. Input is never echoed.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app.core import errors
from app.core.errors import DomainError, InternalError
from app.core.logging import escape_control, request_id
from app.models.schemas import ErrorDetail, ErrorResponse

logger = logging.getLogger(__name__)

# A subclass that is not listed has the status of its nearest ancestor.
STATUS: Mapping[type[DomainError], int] = {
    errors.InvalidRequest: 400,
    errors.NotAuthenticated: 401,
    errors.ForbiddenHost: 403,  # not 421: clients try that one again over another connection
    errors.NotFound: 404,
    errors.BodyTooSlow: 408,
    errors.ConversationBusy: 409,
    errors.ModelBusy: 409,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.QueueFull: 429,
    errors.InternalError: 500,
    errors.ModelUnavailable: 503,
    errors.DeadlineExceeded: 504,
    DomainError: 500,
}

_MAX_PROBLEMS = 5  # of a validation error that are told
_MAX_FIELD = 80  # characters of a field's name that are told

_HTTP_ERRORS: Mapping[int, tuple[str, str]] = {
    404: ("There is no such route.", "GET / lists what is here."),
    405: (
        "This route does not take that method.",
        "GET / lists what is here; the header Allow says what it takes.",
    ),
}


def status_of(error: DomainError) -> int:
    """The status of the nearest listed ancestor."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def error_body(error: DomainError) -> ErrorResponse:
    detail = ErrorDetail(
        code=error.code, message=error.message, hint=error.hint, retry_after=error.retry_after
    )
    return ErrorResponse(error=detail)


def error_response(error: DomainError) -> Response:
    headers = {}
    if isinstance(error, errors.NotAuthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.QueueFull) or error.retry_after is not None:
        headers["Retry-After"] = str(1 if error.retry_after is None else error.retry_after)
    return _respond(status_of(error), error_body(error), headers)


def to_domain_error(error: BaseException) -> DomainError:
    """What the caller is told of an error. A bug of ours is logged with its traceback and told without it."""
    if isinstance(error, DomainError):
        return error
    logger.error("unexpected %s", type(error).__name__, exc_info=error)
    hint = f"The server's log tells more under request id {request_id.get()}."
    return InternalError("Something went wrong inside the server.", hint=hint)


def install_error_handlers(app: FastAPI) -> None:
    """Everything that a route or its parsing raises is answered in the one shape."""
    app.add_exception_handler(DomainError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_domain_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, DomainError)
    return error_response(error)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [_problem(problem) for problem in error.errors()]
    told_problems = "; ".join(problems[:_MAX_PROBLEMS])
    more = len(problems) - _MAX_PROBLEMS
    message = told_problems if more <= 0 else f"{told_problems}; and {more} more"
    return _respond(422, _body("validation_error", message, "/docs shows what each route takes."))


async def _on_http_error(_: Request, error: Exception) -> Response:
    """What the framework raises by itself: an unknown route, a wrong method."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    message, hint = _HTTP_ERRORS.get(error.status_code, (f"{phrase}.", None))
    return _respond(error.status_code, _body(phrase.lower().replace(" ", "_"), message, hint), error.headers)


def _problem(problem: Mapping[str, Any]) -> str:  # Any: pydantic's error details
    """`field: cause`, without the input that pydantic keeps beside them."""
    is_unknown = problem["type"] == "extra_forbidden"
    parts = [str(part) for part in problem["loc"][1:] if is_unknown or _is_place(part)]
    field = escape_control(".".join(parts)[:_MAX_FIELD])
    if is_unknown:
        return f"{field}: there is no such field"
    if problem["type"] == "missing" and not field:
        return "The request has no body."
    cause = str(problem["msg"]).removeprefix("Value error, ")
    return f"{field}: {cause}" if field else cause


def _is_place(part: str | int) -> bool:
    """A field or an index, and not pydantic's name for one branch of a union."""
    return isinstance(part, int) or part.isidentifier()


def _body(code: str, message: str, hint: str | None) -> ErrorResponse:
    return ErrorResponse(error=ErrorDetail(code=code, message=message, hint=hint))


def _respond(status: int, body: ErrorResponse, headers: Mapping[str, str] | None = None) -> Response:
    content = body.model_dump_json(exclude_none=True)
    return Response(content, status, dict(headers or {}), media_type="application/json")
