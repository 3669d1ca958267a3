"""Owns what happens to every request before a route: its id and log line, and who may ask at all.

Pure ASGI. Decisions look at `scope["path"]` and the headers alone; bodies belong to api/body.py.
"""

import hmac
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

from app.api.errors import error_response, to_domain_error
from app.core.errors import DomainError, ForbiddenHost, NotAuthenticated
from app.core.logging import escape_control, request_id

logger = logging.getLogger("app.access")

# Open without a key: what a probe asks, and what any copy of this program shows alike. The page at /docs
# needs its script and the schema before a person can enter the key there.
HEALTH_PATHS = frozenset(
    f"{prefix}/health{part}" for prefix in ("", "/api/v1") for part in ("", "/live", "/ready")
)
ASSETS = "/docs-assets"
_OPEN_PATHS = HEALTH_PATHS | {"/", "/docs", "/openapi.json"}

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLIENT_LEFT = 499  # nginx's number for a request whose client did not wait


class RequestLog:
    """Gives every request an id and one line, and answers what nothing else caught.

    A sane `x-request-id` is kept, so that a proxy's log and this one can be read side by side.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began = time.perf_counter()
        token = request_id.set(_id_of(Headers(scope=scope)))
        answer = _Answer(send)
        try:
            await self._run(scope, receive, answer)
        finally:
            _log(scope, answer.status, time.perf_counter() - began)
            request_id.reset(token)

    async def _run(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self.app(scope, receive, answer)
        except Exception as error:  # the application's last handler
            response = error_response(to_domain_error(error))
            if answer.status is None:
                await response(scope, receive, answer)


class _Answer:
    """The `send` of one request: adds the id, remembers the status."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = request_id.get()
        await self.send(message)


class Guard:
    """Runs a check on the head of every request. The check raises the DomainError to answer with."""

    def __init__(self, app: ASGIApp, check: Callable[[Scope], None]) -> None:
        self.app = app
        self.check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "http":
                self.check(scope)
        except DomainError as error:
            return await error_response(error)(scope, receive, send)
        await self.app(scope, receive, send)


class HostCheck:
    """For a server without a key: refuses what another site's page can make a browser send.

    DNS rebinding gives itself away by its name in Host, a plain cross-site request by its Origin.
    """

    def __init__(self, allowed_hosts: Sequence[str], origins: Sequence[str]) -> None:
        self.names = {
            "localhost",
            "ip6-localhost",
            socket.gethostname().lower(),
            *map(str.lower, allowed_hosts),
        }
        self.origins = frozenset(origins)

    def __call__(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(_hostname(host)):
            raise ForbiddenHost(
                "This server does not answer to the name in the header Host.",
                hint="Name it in LLM_ALLOWED_HOSTS, or set LLM_API_KEY.",
            )
        origin = headers.get("origin")
        if origin is not None and not self._may_ask(origin, host):
            raise ForbiddenHost(
                "This server does not answer to pages of another site.",
                hint="Name the page's origin in LLM_CORS_ORIGINS.",
            )

    def _is_ours(self, name: str) -> bool:
        return name in self.names or "*" in self.names or name.endswith(".localhost") or _is_address(name)

    def _may_ask(self, origin: str, host: str) -> bool:
        return (
            origin in self.origins or "*" in self.origins or urlsplit(origin).netloc.lower() == host.lower()
        )


class KeyCheck:
    """Denies every route but the open ones to those without the key."""

    def __init__(self, key: str) -> None:
        self.key = key.encode()

    def __call__(self, scope: Scope) -> None:
        path = scope["path"]
        if path in _OPEN_PATHS or path.startswith(f"{ASSETS}/"):
            return
        if not hmac.compare_digest(_given_key(Headers(scope=scope)), self.key):
            raise NotAuthenticated(
                "This server asks for its API key.",
                hint="Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
            )


def _given_key(headers: Headers) -> bytes:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    given = key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return given.encode("latin-1")  # as the server decoded it, so these are the bytes that were sent


def _hostname(host: str) -> str:
    """The name in a Host header, without its port and its brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _id_of(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)


def _log(scope: Scope, status: int | None, seconds: float) -> None:
    """One line. The route's template stands for the path, as ids of conversations open them."""
    path = getattr(scope.get("route"), "path", None) or scope["path"]
    level = logging.DEBUG if scope["path"] in HEALTH_PATHS else logging.INFO
    answered = _CLIENT_LEFT if status is None else status
    logger.log(level, "%s %s %d %.0f ms", scope["method"], escape_control(path), answered, seconds * 1000)
