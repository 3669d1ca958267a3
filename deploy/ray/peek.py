"""Reads the body of a request before it is passed on, without changing what the application receives."""

import asyncio
from contextlib import suppress

from starlette.types import Message, Receive


class PeekedRequest:
    """A request whose body was read ahead, and that can be passed on more than once."""

    def __init__(self, receive: Receive) -> None:
        self.body = b""  # empty if it was too large or too slow
        self.is_whole = False  # nothing but the client's disconnection is still to come
        self.has_left = False  # the client
        self._receive = receive
        self._messages: list[Message] = []

    async def read(self, max_bytes: int, limit_s: float) -> None:
        """Reads the body, until it is too large or `limit_s` has passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._collect(max_bytes)

    async def _collect(self, max_bytes: int) -> None:
        body, more = bytearray(), True
        while more and len(body) <= max_bytes:
            self._messages.append(await self._next())
            body += self._messages[-1].get("body", b"")
            more = self._messages[-1].get("more_body", False)
        self.is_whole = not more
        self.body = bytes(body) if len(body) <= max_bytes else b""

    async def _next(self) -> Message:
        message = await self._receive()
        self.has_left = message["type"] == "http.disconnect"
        return message

    def replay(self) -> Receive:
        """Returns a `receive` that begins with the first message of the request."""
        messages = iter(self._messages)

        async def receive() -> Message:
            return next(messages, None) or await self._next()

        return receive
