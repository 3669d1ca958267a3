"""Prepares requests in Ray's HTTP proxy, and writes Ray's own failures like errors of the application.

Each of Ray's proxies calls `middleware`, which RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names.
"""

import asyncio
import re
import secrets
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.paths import NATIVE_PREFIX, OPENAI_PREFIX, path_below_prefix
from app.core.config import load_settings
from deploy.ray.peek import PeekedRequest
from deploy.ray.reply import Reply
from deploy.ray.routing import routing_of

_OF_RAY = "/-/"  # the proxy's own routes
_LOADS = (f"{NATIVE_PREFIX}/chat/switch-model", f"{NATIVE_PREFIX}/load-model")
_KEYED = (f"{NATIVE_PREFIX}/chat", f"{OPENAI_PREFIX}/responses")  # the routes that read an Idempotency-Key
_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BODY_S = 30.0  # as in app.api.body
_MARGIN_S = 10.0  # the application's own deadline comes first
# With these, a client could turn off the proxy's limit of time, or the end of a reply when its reader leaves.
_CONTROLS = ("x-request-timeout-seconds", "x-request-disconnect-disabled")


def middleware() -> list[Middleware]:
    """Returns what Ray puts around its proxy."""
    settings = load_settings()
    return [Middleware(Ingress, settings.max_body_bytes, settings.request_timeout + _MARGIN_S)]


class Ingress:
    """Tells the router the conversation and the model of each request, bounds its time, and sees that every
    reply ends."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, limit_s: float) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_OF_RAY):
            return await self.app(scope, receive, send)
        path = path_below_prefix(scope)
        request = PeekedRequest(receive)
        await request.read(self.max_body_bytes, _BODY_S)
        request_id = _prepare(scope, path, request.body)
        reply = Reply(path, request_id, send)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if path in _LOADS else self.limit_s):
                await self._pass_on(scope, path, request, reply)
        if not request.has_left:
            await reply.finish(scope, receive)

    async def _pass_on(self, scope: Scope, path: str, request: PeekedRequest, reply: Reply) -> None:
        """Passes the request on; again if its replica died without an answer, where that does no harm."""
        await self.app({**scope}, request.replay(), reply)
        if reply.has_died and request.is_whole and not request.has_left and _is_repeatable(scope, path):
            await self.app({**scope}, request.replay(), reply)


def _prepare(scope: Scope, path: str, body: bytes) -> str:
    """Sets the headers that Ray and the application read. Returns the request's id."""
    headers = MutableHeaders(scope=scope)
    for name in _CONTROLS:
        del headers[name]
    given = headers.get("x-request-id", "")
    request_id = given if _VALID_ID.fullmatch(given) else secrets.token_hex(8)
    headers["x-request-id"] = request_id
    routing = routing_of(headers, path, body)
    headers["x-session-id"] = routing.session
    del headers["serve_multiplexed_model_id"], headers["serve-multiplexed-model-id"]
    if routing.model is not None:
        scope["headers"].append((b"serve_multiplexed_model_id", routing.model.encode()))  # Ray reads UTF-8
    return request_id


def _is_repeatable(scope: Scope, path: str) -> bool:
    has_key = path in _KEYED and "idempotency-key" in Headers(raw=scope["headers"])
    return scope["method"] in ("GET", "HEAD") or has_key
