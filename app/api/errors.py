"""Turns every error into an HTTP response, with one table of status codes and one shape of body.

    {"error": {"code", "message", "hint"?, "retry_after"?, "head_id"?}}

core/errors.py defines the errors. A response never repeats the request's input.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.api.error_formats import ErrorReply
from app.core import errors
from app.core.errors import DomainError, error_for_code
from app.core.telemetry.logging import escape_control
from app.models.schemas import ErrorDetail, ErrorResponse

logger = logging.getLogger(__name__)

# A class that is not listed has the status of its nearest ancestor.
STATUS: Mapping[type[DomainError], int] = {
    errors.InvalidRequest: 400,
    errors.NotAuthenticated: 401,
    errors.NotPermitted: 403,
    errors.ForbiddenHost: 403,  # not 421, which clients retry over another connection
    errors.NotFound: 404,
    errors.BodyTooSlow: 408,
    errors.ConversationBusy: 409,
    errors.HeadChanged: 409,
    errors.ModelBusy: 409,
    errors.TurnStopped: 409,
    errors.KeyReused: 409,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.QueueFull: 429,
    errors.RateLimitExceeded: 429,
    errors.InternalError: 500,
    errors.ModelUnavailable: 503,
    errors.StoreUnavailable: 503,
    errors.DeadlineExceeded: 504,
    DomainError: 500,
}

_MAX_PROBLEMS = 5  # listed in the message of a validation error
_MAX_FIELD = 80  # characters of a field's name that a message shows

_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
_HTTP_ERRORS: Mapping[int, tuple[str, str]] = {
    404: ("This route does not exist.", "GET / lists all routes."),
    405: (
        "This route does not support this method.",
        "The header Allow lists the methods of this route; GET / lists all routes.",
    ),
}


def status_of(error: DomainError) -> int:
    """Returns the status of the nearest ancestor class in the table."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def status_of_code(code: str) -> int:
    """Returns the status of the errors with this code."""
    return status_of(error_for_code(code, ""))


def error_body(error: DomainError) -> ErrorResponse:
    """The body of a response or of the last event of a stream."""
    logger.debug("error: code=%s", error.code)  # not the message, which may name a field of the request
    detail = ErrorDetail(
        code=error.code,
        message=error.message,
        hint=error.hint,
        retry_after=error.retry_after,
        head_id=error.head_id if isinstance(error, errors.HeadChanged) else None,
    )
    return ErrorResponse(error=detail)


def error_response(error: DomainError) -> ErrorReply:
    headers = {}
    if isinstance(error, errors.NotAuthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.QueueFull) or error.retry_after is not None:
        headers["Retry-After"] = str(1 if error.retry_after is None else error.retry_after)
    return ErrorReply(status_of(error), error_body(error), headers)


def install_error_handlers(app: FastAPI) -> None:
    """Gives all errors of routes, and of parsing requests, the same shape."""
    app.add_exception_handler(DomainError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_domain_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, DomainError)
    return error_response(error)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    kinds = dict.fromkeys(problem["type"] for problem in error.errors())
    logger.debug("error: code=validation_error problems=%s", ",".join(kinds))
    problems = [_problem(problem) for problem in error.errors()]
    message = "; ".join(problems[:_MAX_PROBLEMS])
    if len(problems) > _MAX_PROBLEMS:
        message += f"; and {len(problems) - _MAX_PROBLEMS} more"
    return ErrorReply(422, _body("validation_error", message, "/docs lists the fields of each route."))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Handles the framework's own errors: an unknown route or a wrong method."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    message, hint = _HTTP_ERRORS.get(error.status_code, (f"{phrase}.", None))
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    return ErrorReply(error.status_code, _body(phrase.lower().replace(" ", "_"), message, hint), headers)


def _methods(request: Request) -> list[str]:
    """Returns the methods of all routes with this path. The framework names only those of the first route."""
    routes = request.app.routes
    found = [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return ["HEAD", *found] if "GET" in found else found


def _problem(problem: Mapping[str, Any]) -> str:  # Any: pydantic's error details
    """Returns `field: cause`, without the input that pydantic's error contains."""
    is_unknown = problem["type"] == "extra_forbidden"
    parts = [str(part) for part in problem["loc"][1:] if is_unknown or _is_location(part)]
    field = escape_control(".".join(parts)[:_MAX_FIELD])
    if is_unknown:
        return f"{field}: unknown field"
    if problem["type"] == "missing" and not field:
        return "The request has no body."
    cause = str(problem["msg"]).removeprefix("Value error, ")
    return f"{field}: {cause}" if field else cause


def _is_location(part: str | int) -> bool:
    """Returns whether the part is a field or an index, not pydantic's name for one branch of a union."""
    return isinstance(part, int) or part.isidentifier()


def _body(code: str, message: str, hint: str | None) -> ErrorResponse:
    return ErrorResponse(error=ErrorDetail(code=code, message=message, hint=hint))
