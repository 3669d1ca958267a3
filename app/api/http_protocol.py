"""The server's HTTP/1.1 protocol: uvicorn's, with limits for clients that stop sending or reading, and for
the number of connections.

It works below ASGI, so plain `uvicorn` needs the option `--http` with this class.
"""

import heapq
from asyncio import TimerHandle, Transport
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from app.api.errors import error_body, status_of
from app.core.errors import DomainError, InvalidRequest, QueueFull
from app.core.machine import open_files_limit

_MAX_CONNECTIONS = 4096
_MAX_CHUNKS = 50_000  # of a body; each takes 6 us, however short it is
_HEAD_BYTES = 16_384  # h11's default


class _BoundedConnection(h11.Connection):
    """Reads no further in a body of too many chunks."""

    def __init__(self, max_chunks: int, head_bytes: int) -> None:
        super().__init__(h11.SERVER, head_bytes)
        self.has_too_many_chunks = False
        self._max_chunks = max_chunks
        self._chunks = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """See h11."""
        if self.has_too_many_chunks:
            return h11.NEED_DATA
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = 0
        elif isinstance(event, h11.Data) and event.chunk_start:
            self._chunks += 1
            self.has_too_many_chunks = self._chunks > self._max_chunks
        return event


class DeadlineProtocol(H11Protocol):
    """Closes a connection if the head of a request does not arrive, or if the client reads nothing.

    Between requests, uvicorn's shorter keep-alive limit applies. Bytes that are not HTTP get a JSON error.
    So do bodies of too many chunks, which would take seconds to read. If too many connections are open, those
    that have waited longest for a whole request are closed. They would otherwise leave no file descriptors
    for workers, the database and the disk.
    """

    max_connections: ClassVar[int | None] = None  # None: half of the files that this process may open
    max_chunks: ClassVar[int] = _MAX_CHUNKS
    conn: _BoundedConnection

    head_deadline_s = 30.0  # for a head, from its first byte or from the start of the connection
    stall_limit_s = 30.0  # in which the client must read at least one of the bytes that wait

    _head_timer: TimerHandle | None = None
    _stall_timer: TimerHandle | None = None
    _waiting_since = 0.0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn does
        self.conn = _BoundedConnection(
            self.max_chunks, self.config.h11_max_incomplete_event_size or _HEAD_BYTES
        )
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # pause as soon as a byte has to wait
        self._waiting_since = self.loop.time()
        self._expect_head()
        self._make_room()

    @property
    def waiting_since(self) -> float | None:
        """The event loop's time of its last reply or its start, if it still waits for a whole request."""
        is_waiting = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing()
        return self._waiting_since if is_waiting else None

    def on_response_complete(self) -> None:
        self._waiting_since = self.loop.time()
        super().on_response_complete()

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

    def handle_events(self) -> None:
        """Also called when a reply has ended, for the bytes that have arrived after its request."""
        super().handle_events()
        if self.conn.has_too_many_chunks:
            self._refuse_chunks()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_progress()

    def resume_writing(self) -> None:
        self._cancel_stall_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest(msg))

    def _refuse_chunks(self) -> None:
        self._cancel_head_timer()
        if self.conn.our_state is h11.SEND_RESPONSE:
            self._refuse(InvalidRequest(f"The body has more than {self.max_chunks} chunks."))
        else:  # the reply has begun
            self.transport.close()

    def _refuse(self, error: DomainError) -> None:
        """Answers with the error, whatever the client has sent, and closes the connection."""
        status = status_of(error)
        headers = [("content-type", "application/json"), ("connection", "close")]
        if error.retry_after is not None:
            headers.append(("retry-after", str(error.retry_after)))
        events: list[Any] = [  # Any: h11's events have no common class
            h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
            h11.Data(data=error_body(error).model_dump_json(exclude_none=True).encode()),
            h11.EndOfMessage(),
        ]
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _make_room(self) -> None:
        """Closes waiting connections, many at a time, if this one is one too many; itself if none waits."""
        limit = self.max_connections or min(open_files_limit() // 2, _MAX_CONNECTIONS)
        if len(self.connections) <= limit:
            return
        waiting = [
            (since, id(each), each) for each in self._others() if (since := each.waiting_since) is not None
        ]
        for _, _, each in heapq.nsmallest(1 + limit // 16, waiting):
            self.connections.discard(each)  # it no longer counts, although it closes a moment later
            each.transport.close()
        if not waiting:
            self._refuse(QueueFull("Too many connections are open.", hint="Try again later.", retry_after=1))

    def _others(self) -> list["DeadlineProtocol"]:
        return [each for each in self.connections if isinstance(each, DeadlineProtocol) and each is not self]

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
