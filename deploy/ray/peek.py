"""Reads the body of a request before it is passed on, without changing what the application receives."""

import asyncio
from collections import deque
from contextlib import suppress

from starlette.types import Message, Receive


async def peek(receive: Receive, max_bytes: int, limit_s: float) -> tuple[bytes, Receive]:
    """Returns the body, and a `receive` with the same messages.

    The body is empty if it is larger than `max_bytes`, or has not arrived after `limit_s`.
    """
    messages: deque[Message] = deque()
    body = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            body = await _collect(receive, messages, max_bytes)

    async def replay() -> Message:
        return messages.popleft() if messages else await receive()

    return body, replay


async def _collect(receive: Receive, messages: deque[Message], max_bytes: int) -> bytes:
    body, more = bytearray(), True
    while more and len(body) <= max_bytes:
        messages.append(await receive())
        body += messages[-1].get("body", b"")
        more = messages[-1].get("more_body", False)
    return bytes(body) if len(body) <= max_bytes else b""
