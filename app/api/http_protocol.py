"""Owns what the server's HTTP protocol does beyond uvicorn's: a deadline for the head of a request, and an
answer in the one shape to what is no HTTP. Below ASGI, so it works where uvicorn is told of this class.
"""

from asyncio import TimerHandle, Transport
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from app.api.errors import error_body
from app.core.errors import InvalidRequest

HEAD_DEADLINE_S = 30.0  # as long as a body has


class DeadlineProtocol(H11Protocol):
    """Closes a connection whose first or next request has begun and does not come to the end of its head.

    Between two requests the server's own, shorter keep-alive holds.
    """

    head_deadline_s = HEAD_DEADLINE_S
    _deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._unwatch()
        elif self._deadline is None:
            self._watch()

    def send_400_response(self, msg: str) -> None:
        body = error_body(InvalidRequest(msg)).model_dump_json(exclude_none=True).encode()
        headers = [("content-type", "application/json"), ("connection", "close")]
        events: list[Any] = [  # Any: h11's events have no common class
            h11.Response(status_code=400, headers=headers, reason=STATUS_PHRASES[400]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        self._deadline = self.loop.call_later(self.head_deadline_s, self.transport.close)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
