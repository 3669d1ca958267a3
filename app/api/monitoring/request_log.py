"""Gives every request an id, one log line and a place in the figures. This is plain ASGI."""

import logging
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import error_response
from app.api.middleware import HEALTH_PATHS
from app.api.paths import METRICS_PATH, RUNNING_TURNS_PATH, path_below_prefix, surface_of
from app.core.telemetry.logging import escape_control, request_id, to_domain_error, trace_id, with_fields
from app.core.telemetry.propagation import traceparent
from app.core.telemetry.request_usage import RequestUsage, current_usage
from app.core.telemetry.tracer import RequestSpan
from app.services import Services

logger = logging.getLogger("app.access")

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ID_IN_PATH = re.compile(r"_[0-9a-f]{16,}")  # without what precedes it, which could take quadratic time
_KEY_IN_PATH = re.compile(r"(?<![A-Za-z0-9])(sk|hf)[-_][\w-]+|(?<![\w-])(?=[\w-]{20})[\w-]+", re.ASCII)
_MAX_PATH = 200
_PROBES = HEALTH_PATHS | {METRICS_PATH, RUNNING_TURNS_PATH}
_CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected before the reply


class RequestLog:
    """Gives every request an id and one log line, and turns uncaught exceptions into error responses.

    A valid `x-request-id` is kept, and so is the trace of a valid `traceparent`, so that the logs of a proxy
    and of other services can be matched with this one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        services: Services = scope["app"].state.services
        began, path, headers = time.perf_counter(), path_below_prefix(scope), Headers(scope=scope)
        reply, usage = _ReplySend(send), RequestUsage()
        with (
            services.tracer.request(scope["method"], headers) as span,
            _context(_id_of(headers), span, usage),
        ):
            try:
                await self._run(scope, receive, reply)
            finally:
                seconds = time.perf_counter() - began
                status = _CLIENT_CLOSED_REQUEST if reply.status is None else reply.status
                route = _route_of(scope, path)
                span.describe(f"{scope['method']} {route}", route, status)
                _log(scope["method"], route, status, seconds, usage)
                services.metrics.count_http(surface_of(path), status, seconds)

    async def _run(self, scope: Scope, receive: Receive, reply: "_ReplySend") -> None:
        try:
            await self.app(scope, receive, reply)
        except Exception as error:  # the root of every request
            response = error_response(to_domain_error(error))
            if reply.status is None:
                await response(scope, receive, reply)


class _ReplySend:
    """The `send` of one request. Adds the request's id to the headers and keeps the status."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = request_id.get()
        await self.send(message)


def _id_of(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _VALID_ID.fullmatch(given) else secrets.token_hex(8)


@contextmanager
def _context(new_id: str, span: RequestSpan, usage: RequestUsage) -> Iterator[None]:
    """Sets what log lines and requests to other servers say, also in the tasks that this request starts."""
    tokens = request_id.set(new_id), trace_id.set(span.trace_id), current_usage.set(usage)
    parent = traceparent.set(span.traceparent)
    try:
        yield
    finally:
        request_id.reset(tokens[0])
        trace_id.reset(tokens[1])
        current_usage.reset(tokens[2])
        traceparent.reset(parent)


def _route_of(scope: Scope, path: str) -> str:
    """Returns the route template instead of the path, because conversation ids are secrets.

    A request that was refused before it had a route, or that has none, keeps the beginning of its path,
    without ids and without words that may be keys: those that begin like one, and long ones.
    """
    template = getattr(scope.get("route"), "path", None)
    return escape_control(template or _KEY_IN_PATH.sub("...", _ID_IN_PATH.sub("_...", path))[:_MAX_PATH])


def _log(method: str, route: str, status: int, seconds: float, usage: RequestUsage) -> None:
    is_probe = route in _PROBES and status != 401  # somebody may be guessing keys
    fields: dict[str, str | int | float] = {"method": method, "route": route, "status": status}
    logger.log(
        logging.DEBUG if is_probe else logging.INFO,
        "%s %s %d %.0f ms",
        method,
        route,
        status,
        seconds * 1000,
        extra=with_fields(usage.fields(), fields | {"duration_ms": round(seconds * 1000, 1)}),
    )
