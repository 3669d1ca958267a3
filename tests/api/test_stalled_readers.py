"""A client that stops reading without closing its connection loses its reply at the deadline, and holds up
neither the turn nor other readers."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import pytest

from app.api.http_protocol import DeadlineProtocol
from app.core.config import Settings
from app.engine.ipc.messages import Delta
from app.main import create_app
from app.models.chat.conversations import ConversationManager
from app.models.chat.generation import ChatGenerator
from app.models.chat_manager import ChatModelManager
from app.models.storage.key_records import MemoryKeyRecords
from app.models.storage.memory_store import MemoryStore
from app.models.storage.turn_locks import LocalTurnLocks
from app.models.turns.turn_registry import TurnRegistry
from app.services import Services
from tests.api.fakes import LONG, Scripted, fake_app, scripted_services, serving
from tests.http_options import LOCAL
from tests.models.stand_in import HELLO, StandInBackend, StandInModels
from tests.waiting import LIMIT_S, wait_for


class ImpatientProtocol(DeadlineProtocol):
    stall_limit_s = 0.1
    lost = threading.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set()


@pytest.fixture
def lost() -> threading.Event:
    """Set when the server has closed a connection."""
    ImpatientProtocol.lost.clear()
    return ImpatientProtocol.lost


def services_of(settings: Settings, models: StandInModels) -> Services:
    locks = LocalTurnLocks()
    store = MemoryStore(max_conversations=10, ttl_s=600, held=locks.held)
    return replace(
        scripted_services(Scripted(), settings),
        chats=ChatModelManager(
            settings, store, locks, ChatGenerator(models), TurnRegistry(), MemoryKeyRecords()
        ),
        conversations=ConversationManager(settings, store, locks, models),
    )


def stalled_reader(url: str, message: str, **fields: object) -> AbstractContextManager[socket.socket]:
    """A connection that has sent a message and reads nothing."""
    body = json.dumps({"message": message} | fields).encode()
    head = f"POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return stalled_request(url, f"{head}Connection: close\r\nContent-Type: application/json\r\n\r\n", body)


def stalled_get(url: str, path: str) -> AbstractContextManager[socket.socket]:
    """A connection that has asked for events and reads nothing."""
    return stalled_request(url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


@contextmanager
def stalled_request(url: str, head: str, body: bytes = b"") -> Iterator[socket.socket]:
    """A connection that has sent a request and reads nothing. Small buffers fill up at once."""
    address = urlsplit(url)
    with socket.socket() as connection:
        connection.settimeout(LIMIT_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.hostname, address.port))
        connection.sendall(head.encode() + body)
        yield connection


def read_to_the_end(connection: socket.socket) -> bytearray:
    received = bytearray()
    while part := connection.recv(1_000_000):
        received += part
    return received


def test_stalled_reader_loses_its_stream_at_the_deadline() -> None:
    scripted = Scripted()
    with serving(fake_app(scripted, request_timeout=0.3)) as url, stalled_reader(url, "flood", stream=True):
        assert scripted.cancelled.wait(LIMIT_S)


def test_stalled_readers_hold_up_neither_their_turn_nor_its_other_readers() -> None:
    accepted, finished = HELLO[0], HELLO[-1]
    endless = [Delta("r", "x" * 100_000, 1)] * 200  # more than all buffers on the way hold
    models = StandInModels(StandInBackend(reply=[accepted, *endless, finished]))
    settings = Settings(max_conversation_bytes=100_000_000, _env_file=None)
    services = services_of(settings, models)
    with (
        serving(create_app(settings, lambda _: services)) as url,
        httpx.Client(base_url=f"{url}/api/v1/chat", **LOCAL) as client,
    ):
        conversation_id = client.post("/new").json()["conversation_id"]
        path = f"/conversation/{conversation_id}"
        with ExitStack() as stalled:
            stalled.enter_context(stalled_reader(url, "hi", stream=True, conversation_id=conversation_id))
            wait_for(lambda: client.get(path).json()["message_count"] == 2, "the turn to end", LIMIT_S)
            message_id = client.get(path).json()["head_id"]
            for _ in range(3):
                stalled.enter_context(stalled_get(url, f"/api/v1/chat/turns/{message_id}/events"))
            events = client.get(f"/turns/{message_id}/events").text
        assert "event: done" in events and len(events) > 2 * 200 * 100_000
    assert models.returned == len(models.leased) == 1


def test_stalled_reader_loses_its_connection_after_the_deadline(lost: threading.Event) -> None:
    app = fake_app(Scripted(), request_timeout=0.1)
    with serving(app, http=ImpatientProtocol) as url, stalled_reader(url, "flood", stream=True):
        assert lost.wait(LIMIT_S)


def test_reader_that_takes_nothing_loses_its_stream_before_the_deadline(lost: threading.Event) -> None:
    scripted = Scripted()
    with (
        serving(fake_app(scripted), http=ImpatientProtocol) as url,
        stalled_reader(url, "flood", stream=True),
    ):
        assert scripted.cancelled.wait(LIMIT_S)
        assert lost.wait(LIMIT_S)


def test_reader_that_takes_nothing_of_a_long_reply_loses_its_connection(lost: threading.Event) -> None:
    with (
        serving(fake_app(Scripted()), http=ImpatientProtocol) as url,
        stalled_reader(url, "long", stream=False) as connection,
    ):
        assert lost.wait(LIMIT_S)
        assert len(read_to_the_end(connection)) < len(LONG)


def test_reader_that_goes_on_reading_gets_a_long_reply_whole() -> None:
    with (
        serving(fake_app(Scripted()), http=DeadlineProtocol) as url,
        stalled_reader(url, "long", stream=False) as connection,
    ):
        assert len(read_to_the_end(connection)) > len(LONG)
