"""Gives every request an id and a log line, and refuses requests without the key or from foreign sites.

This is plain ASGI. All checks look only at the headers and at the path below the server's own prefix
(`root_path`); body.py checks the bodies.
"""

import ipaddress
import logging
import re
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import error_response
from app.api.paths import PAGE, is_below, path_below_prefix
from app.core.api_keys import DEFAULT_OWNER, KeyRing
from app.core.errors import DomainError, ForbiddenHost, NotAuthenticated
from app.core.logging import escape_control, request_id, to_domain_error

logger = logging.getLogger("app.access")

# Paths that need no key and have no limit: those that probes request, and those that reveal nothing about
# this server. The pages at /ui and /docs need their files before a person can enter the key.
HEALTH_PATHS = frozenset(
    f"{prefix}/health{part}" for prefix in ("", "/api/v1") for part in ("", "/live", "/ready")
)
ASSETS = "/docs-assets"
_OPEN_PATHS = HEALTH_PATHS | {"/", "/docs", "/openapi.json"}

OWNER = "owner"  # key of the ASGI scope: the name of the caller, to whom its conversations belong

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected before the reply


class RequestLog:
    """Gives every request an id and one log line, and turns uncaught exceptions into error responses.

    A valid `x-request-id` is kept, so that a proxy's log can be matched with this one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, path = time.perf_counter(), path_below_prefix(scope)
        token = request_id.set(_id_of(Headers(scope=scope)))
        reply = _ReplySend(send)
        try:
            await self._run(scope, receive, reply)
        finally:
            _log(scope, path, reply.status, time.perf_counter() - began)
            request_id.reset(token)

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


class Guard:
    """Runs a check on the path and headers of every request, and writes the owner into the request's scope.

    The check returns the owner, or None for an open path. It raises a DomainError to refuse.
    """

    def __init__(self, app: ASGIApp, check: Callable[[Scope], str | None]) -> None:
        self.app = app
        self.check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "http" and (owner := self.check(scope)) is not None:
                scope[OWNER] = owner
        except DomainError as error:
            return await error_response(error)(scope, receive, send)
        await self.app(scope, receive, send)


class HostCheck:
    """Protects a server without a key from requests that a page of another site makes a browser send.

    After DNS rebinding, the header Host names the other site; in an ordinary cross-site request, Origin does.
    """

    def __init__(self, allowed_hosts: Sequence[str], origins: Sequence[str]) -> None:
        self.names = {
            "localhost",
            "ip6-localhost",
            socket.gethostname().lower(),
            *map(str.lower, allowed_hosts),
        }
        self.origins = frozenset(origins)

    def __call__(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_own_name(_hostname(host)):
            raise ForbiddenHost(
                "This server does not accept the host name in the header Host.",
                hint="Add it to LLM_ALLOWED_HOSTS, or set LLM_API_KEY.",
            )
        origin = headers.get("origin")
        if origin is not None and not self._is_allowed(origin, host):
            raise ForbiddenHost(
                "This server does not accept requests from pages of other sites.",
                hint="Add the page's origin to LLM_CORS_ORIGINS.",
            )
        return None if _is_open(scope) else DEFAULT_OWNER

    def _is_own_name(self, name: str) -> bool:
        return name in self.names or "*" in self.names or name.endswith(".localhost") or _is_address(name)

    def _is_allowed(self, origin: str, host: str) -> bool:
        return origin in self.origins or "*" in self.origins or _netloc(origin) == host.lower()


class KeyCheck:
    """Refuses requests without one of the keys, except on open paths."""

    def __init__(self, keys: KeyRing) -> None:
        self.keys = keys

    def __call__(self, scope: Scope) -> str | None:
        if _is_open(scope):
            return None
        given = _given_keys(Headers(scope=scope))
        owner = self.keys.owner_of(given.pop()) if len(given) == 1 else None
        if owner is None:
            raise NotAuthenticated(
                "This server requires an API key.",
                hint="Send one key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
            )
        return owner


class HeadAsGet:
    """Makes each GET route answer HEAD as well. The server leaves out the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)
        as_get = {**scope, "method": "GET"}
        try:
            await self.app(as_get, receive, send)
        finally:
            scope["route"] = as_get.get("route")  # for the log


def _is_open(scope: Scope) -> bool:
    path = path_below_prefix(scope)
    return path in _OPEN_PATHS or path.startswith(f"{ASSETS}/") or is_below(path, PAGE)


def _given_keys(headers: Headers) -> set[bytes]:
    """Returns the keys in all headers. A request with several different ones does not say who sends it."""
    credentials = [value.partition(" ") for value in headers.getlist("authorization")]
    keys = [key.strip() for scheme, _, key in credentials if scheme.lower() == "bearer"]
    given = [key for key in keys + headers.getlist("x-api-key") if key]
    return {key.encode("latin-1") for key in given}  # as the headers were decoded: these bytes were sent


def _hostname(host: str) -> str:
    """Returns the name in a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str | None:
    """Returns the host and port of an origin; None if it is not a URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _id_of(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _VALID_ID.fullmatch(given) else secrets.token_hex(8)


def _log(scope: Scope, path: str, status: int | None, seconds: float) -> None:
    """Logs the route template, not the path, because conversation ids are secrets."""
    template = getattr(scope.get("route"), "path", None) or path
    level = logging.DEBUG if path in HEALTH_PATHS else logging.INFO
    shown = _CLIENT_CLOSED_REQUEST if status is None else status
    logger.log(level, "%s %s %d %.0f ms", scope["method"], escape_control(template), shown, seconds * 1000)
