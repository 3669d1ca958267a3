"""The server's HTTP/1.1 protocol: uvicorn's, with limits for clients that stop sending or reading.

It works below ASGI, so plain `uvicorn` needs the option `--http` with this class.
"""

from asyncio import TimerHandle, Transport
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from app.api.errors import error_body
from app.core.errors import InvalidRequest


class DeadlineProtocol(H11Protocol):
    """Closes a connection if the head of a request does not arrive, or if the client reads nothing.

    Between requests, uvicorn's shorter keep-alive limit applies. Bytes that are not HTTP get a JSON error.
    """

    head_deadline_s = 30.0  # for a head, from its first byte or from the start of the connection
    stall_limit_s = 30.0  # in which the client must read at least one of the bytes that wait

    _head_timer: TimerHandle | None = None
    _stall_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # pause as soon as a byte has to wait
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_timer()
        self._cancel_stall_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._cancel_head_timer()
        elif self._head_timer is None:
            self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_progress()

    def resume_writing(self) -> None:
        self._cancel_stall_timer()
        super().resume_writing()

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

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_deadline_s, self.transport.close)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _expect_progress(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(self.stall_limit_s, self._check_progress, unsent)

    def _check_progress(self, unsent_before: int) -> None:
        if self.transport.get_write_buffer_size() < unsent_before:
            self._expect_progress()
        else:
            self.transport.abort()  # closing would wait for the reader

    def _cancel_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
