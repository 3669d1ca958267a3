import asyncio
import os
import socket

import pytest

from app.cli.client import ChatClient, Foreign, Refused, Unreachable
from app.cli.connection import Connection, Wanted, connected
from app.cli.interrupts import Interrupts
from app.cli.server import OwnServer, port_for_own
from tests.cli.conftest import Seen
from tests.cli.standin import StandIn
from tests.cli.test_server import COMMAND


def _connect(wanted: Wanted, seen: Seen) -> str:
    async def connect() -> str:
        async with connected(wanted, seen.terminal(), Interrupts()) as connection:
            assert connection.own is None
            return connection.client.url

    return asyncio.run(connect())


def test_server_at_the_default_address_is_used(url: str, seen: Seen) -> None:
    host, port = url.removeprefix("http://").split(":")
    assert _connect(Wanted({"LLM_HOST": host, "LLM_PORT": port}), seen) == url


def test_named_server_is_never_replaced_by_an_own_one(seen: Seen) -> None:
    port = port_for_own("127.0.0.1", 0)
    with pytest.raises(Unreachable) as caught:
        _connect(Wanted({}, url=f"http://127.0.0.1:{port}"), seen)
    assert "uvicorn app.main:app" in str(caught.value.hint)


def test_named_address_with_another_program_is_said(url: str, seen: Seen) -> None:
    with pytest.raises(Foreign, match="no server of this program"):
        _connect(Wanted({}, url=f"{url}/elsewhere"), seen)


def test_server_that_wants_a_key_is_not_replaced(url: str, seen: Seen, standin: StandIn) -> None:
    standin.api_key = "secret"
    with pytest.raises(Refused, match="key is needed"):
        _connect(Wanted({"LLM_PORT": url.rpartition(":")[2]}), seen)
    assert _connect(Wanted({}, url=url, api_key="secret"), seen) == url


def test_own_server_that_ended_is_started_again(seen: Seen) -> None:
    async def revive(own: OwnServer) -> None:
        async with ChatClient(own.url) as client:
            connection = Connection(client, StandIn().health(), own)
            assert await connection.revive(seen.terminal())
            assert own.is_alive and connection.health.status == "ok"
            assert not await connection.revive(seen.terminal())

    own = OwnServer("127.0.0.1", port_for_own("127.0.0.1", 0), dict(os.environ), COMMAND)
    try:
        asyncio.run(revive(own))
    finally:
        own.stop()
    assert "The server had ended; starting it again." in seen.told


def test_server_that_hangs_up_before_it_answers_is_unreachable() -> None:
    async def ask() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0, family=socket.AF_INET)
        async with server, ChatClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
            await anext(client.switch("gpt2"))

    with pytest.raises(Unreachable):
        asyncio.run(ask())
