"""Reads each request's body within limits of size and time, and accepts only one strict JSON object.

This is plain ASGI and runs before any route. The framework's own parser accepts NaN, lone surrogates and
repeated keys, waits for ever, and parses and validates large bodies on the event loop. `ParsedRoute` uses the
object that was parsed here.
"""

import asyncio
import json
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from email.message import Message as MimeHeaders
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import error_response
from app.core.errors import BodyTooLarge, BodyTooSlow, DomainError, InvalidRequest, UnsupportedMediaType

PARSED_BODY = "app.parsed_body"  # in the scope of a request with a body: the JSON object
LARGE_BODY = "app.large_body"  # whether its validation would block the event loop

_LINGER_S = 2.0  # how long a refused client may keep sending
_LARGE_BYTES = 16_000  # parsing a larger body would block the event loop for milliseconds
_MAX_KEY = 80  # characters of a key that an error message shows


class FramingGuard:
    """Refuses a request if two servers could disagree about where it ends (RFC 9112, section 6.1).

    It closes the connection, because the bytes that follow could be read as another request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope["headers"]} if scope["type"] == "http" else set()
        if {b"content-length", b"transfer-encoding"} <= names:
            message = "A request may have Content-Length or Transfer-Encoding, but not both."
            return await _refuse_unread(InvalidRequest(message), scope, receive, send)
        await self.app(scope, receive, send)


class BodyGuard:
    """Reads the whole body before the route runs, so a bad body changes nothing."""

    def __init__(self, app: ASGIApp, max_bytes: int, deadline_s: float = 30.0) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.deadline_s = deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            body = await self._read(Headers(scope=scope), receive)
            if body:
                check_media_type(Headers(scope=scope))
                scope[LARGE_BODY] = len(body) >= _LARGE_BYTES
                scope[PARSED_BODY] = await _parse(body)
        except ClientDisconnect:
            return
        except (BodyTooLarge, BodyTooSlow) as error:
            await _refuse_unread(error, scope, receive, send)
        except DomainError as error:
            await error_response(error)(scope, receive, send)
        else:
            await self.app(scope, _replay(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self.max_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self.deadline_s):
                return await self._collect(receive)
        except TimeoutError:
            raise BodyTooSlow(f"The body did not arrive within {self.deadline_s:g} seconds.") from None

    async def _collect(self, receive: Receive) -> bytes:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.max_bytes:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"The body is larger than {self.max_bytes} bytes.",
            hint="The server's setting LLM_MAX_BODY_BYTES is the limit.",
        )


def check_media_type(headers: Headers) -> None:
    """Accepts only plain JSON. A browser sends that to another site only after asking it (CSRF).

    Raises:
        UnsupportedMediaType: the message names the wrong header.
    """
    content = MimeHeaders()
    content["Content-Type"] = headers.get("content-type", "")
    if content.get_content_type() != "application/json":
        raise UnsupportedMediaType("The header Content-Type must be application/json.")
    if str(content.get_param("charset", "utf-8")).lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("The charset in the header Content-Type must be utf-8.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The header Content-Encoding is not supported. Send the body unencoded.")


def parse_json_object(body: bytes) -> dict[str, Any]:  # Any: JSON
    """Returns the JSON object in the body. Accepts only UTF-8 that every JSON parser reads in the same way.

    Raises:
        InvalidRequest: the message names the cause and never quotes the body.
    """
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text, parse_float=_finite, parse_constant=_no_constant, object_pairs_hook=_without_repeats
        )
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not valid UTF-8.") from None
    except UnicodeEncodeError:
        raise InvalidRequest("The body contains a lone surrogate, which is not a character.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"The body is not valid JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except ValueError:
        raise InvalidRequest("The body contains a number with too many digits.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object, such as {}.")
    return value


async def _parse(body: bytes) -> dict[str, Any]:
    if len(body) < _LARGE_BYTES:
        return parse_json_object(body)
    return await asyncio.to_thread(parse_json_object, body)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise InvalidRequest("The body contains a number that is too large.")
    return number


def _no_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body contains {name}, which is not valid JSON.")


def _without_repeats(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = _first_repeated(name for name, _ in pairs)
        raise InvalidRequest(f"The field {json.dumps(repeated[:_MAX_KEY])} appears more than once.")
    return found


def _first_repeated(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("one name is repeated")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that first returns the whole body, then the server's next messages (disconnect)."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


async def _refuse_unread(error: DomainError, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends the error at once and closes the connection, but keeps reading for a moment.

    Otherwise a client that is still sending would see a connection reset instead of the error.
    """
    response = error_response(error).for_request(scope)
    response.headers["Connection"] = "close"
    await send(
        {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            await _drain(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class ParsedRequest(Request):
    """A request whose `json()` returns the object that the guard has parsed."""

    async def json(self) -> Any:  # Any: JSON
        return self.scope[PARSED_BODY]


class ParsedRoute(APIRoute):
    """A route that does not parse the body a second time. Its body is one model or nothing."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:  # Any: as FastAPI's
        handle = super().get_route_handler()

        async def handle_parsed(request: Request) -> Response:
            if self.body_field is not None and request.scope.get(LARGE_BODY, False):
                await asyncio.to_thread(_validate, self.body_field.validate, request.scope)
            return await handle(ParsedRequest(request.scope, request.receive))

        return handle_parsed


def _validate(validate: Callable[..., tuple[object, list[Any]]], scope: Scope) -> None:  # Any: as Pydantic's
    """Replaces the parsed object by its model, which FastAPI takes as it is.

    Raises:
        RequestValidationError: the object does not fit the model.
    """
    model, errors = validate(scope[PARSED_BODY], loc=("body",))
    if errors:
        raise RequestValidationError(errors)
    scope[PARSED_BODY] = model


async def _drain(receive: Receive) -> None:
    message: Mapping[str, Any] = {"more_body": True}  # Any: an ASGI message
    while message.get("more_body", False):
        message = await receive()
