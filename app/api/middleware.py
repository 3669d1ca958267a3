"""Refuses requests without the key or from foreign sites, and answers HEAD like GET.

This is plain ASGI. All checks look only at the headers and at the path below the server's own prefix
(`root_path`); body.py checks the bodies.
"""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import error_response
from app.api.paths import METRICS_PATH, PAGE, is_below, path_below_prefix
from app.core.api_keys import DEFAULT_OWNER, KeyRing
from app.core.errors import DomainError, ForbiddenHost, NotAuthenticated

# Paths that need no key and have no limit: those that probes request, and those that reveal nothing about
# this server. The pages at /ui and /docs need their files before a person can enter the key.
HEALTH_PATHS = frozenset(
    f"{prefix}/health{part}" for prefix in ("", "/api/v1") for part in ("", "/live", "/ready")
)
ASSETS = "/docs-assets"
_OPEN_PATHS = HEALTH_PATHS | {"/", "/docs", "/openapi.json"}

OWNER = "owner"  # key of the ASGI scope: the name of the caller, to whom its conversations belong

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


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
    """Refuses requests without one of the keys, except on open paths.

    The figures at /metrics are open to the networks `metrics_from`.
    """

    def __init__(self, keys: KeyRing, metrics_from: Sequence[IPNetwork] = ()) -> None:
        self.keys = keys
        self.metrics_from = metrics_from

    def __call__(self, scope: Scope) -> str | None:
        if _is_open(scope) or self._may_read_metrics(scope):
            return None
        given = _given_keys(Headers(scope=scope))
        owner = self.keys.owner_of(next(iter(given))) if len(given) == 1 else None
        if owner is None:
            raise NotAuthenticated(
                "The API key is wrong." if len(given) == 1 else "This server requires an API key.",
                hint="Send one key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
            )
        return owner

    def _may_read_metrics(self, scope: Scope) -> bool:
        if path_below_prefix(scope) != METRICS_PATH or not self.metrics_from or scope.get("client") is None:
            return False
        try:
            address = ipaddress.ip_address(scope["client"][0])
        except ValueError:  # a Unix socket has none
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self.metrics_from)


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
