import asyncio
import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.cli.errors import NotOurServer, Refused, Unreachable
from app.cli.input.interrupts import Interrupts
from app.cli.net.client import ChatClient
from app.cli.net.connection import ServerTarget, connected
from app.cli.net.server import choose_port
from tests.cli.conftest import Seen
from tests.cli.net.test_server import COMMAND
from tests.cli.stand_in.process import served
from tests.cli.stand_in.state import StandIn


def _connect(wanted: ServerTarget, seen: Seen) -> str:
    async def connect() -> str:
        async with connected(wanted, seen.terminal(), Interrupts()) as connection:
            return connection.client.url

    return asyncio.run(connect())


def test_server_at_the_default_address_is_used(url: str, seen: Seen) -> None:
    host, port = url.removeprefix("http://").split(":")
    assert _connect(ServerTarget({"LLM_HOST": host, "LLM_PORT": port}), seen) == url


def test_named_server_is_never_replaced(seen: Seen) -> None:
    port = choose_port("127.0.0.1", 0)
    with pytest.raises(Unreachable) as caught:
        _connect(ServerTarget({}, url=f"http://127.0.0.1:{port}"), seen)
    assert "uvicorn app.main:app" in str(caught.value.hint)


def test_named_address_of_another_program_is_reported(url: str, seen: Seen) -> None:
    with pytest.raises(NotOurServer, match="is not llm-serving"):
        _connect(ServerTarget({}, url=f"{url}/elsewhere"), seen)


def test_server_that_wants_a_key_is_not_replaced(url: str, seen: Seen, standin: StandIn) -> None:
    standin.api_key = "secret"
    with pytest.raises(Refused, match="key is required"):
        _connect(ServerTarget({"LLM_PORT": url.rpartition(":")[2]}), seen)
    assert _connect(ServerTarget({}, url=url, api_key="secret"), seen) == url


GONE = Unreachable("No server answers.", "Is it running?")


def _target(**changes: str) -> ServerTarget:
    """A target at a free address, for which the client starts a stand-in."""
    return ServerTarget(
        os.environ | {"LLM_PORT": str(choose_port("127.0.0.1", 0))} | changes, command=COMMAND
    )


def test_own_server_that_ended_is_restarted(seen: Seen) -> None:
    async def revive() -> None:
        async with connected(_target(), seen.terminal(), Interrupts()) as connection:
            with pytest.raises(Unreachable, match="No server answers"):
                await connection.revive(GONE, seen.terminal())  # it is alive: nothing is replaced
            connection.close()
            await connection.revive(GONE, seen.terminal())
            assert (await connection.client.health()).status == "ok"

    asyncio.run(revive())
    assert "The server has ended. Starting a new one." in seen.messages


def test_own_server_that_is_ending_is_restarted(seen: Seen) -> None:
    others = _children()

    async def revive() -> None:
        async with connected(_target(), seen.terminal(), Interrupts()) as connection:
            asyncio.get_running_loop().call_later(0.3, _kill, _children() - others)
            await connection.revive(GONE, seen.terminal())

    asyncio.run(revive())
    assert "The server has ended. Starting a new one." in seen.messages


def _children() -> set[int]:
    """The processes that this one has started, among them servers that other tests share."""
    process = os.getpid()
    return {int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()}


def _kill(processes: set[int]) -> None:
    for pid in processes:
        os.kill(pid, signal.SIGKILL)


def test_server_of_another_client_is_replaced_when_it_ends(seen: Seen) -> None:
    async def revive() -> None:
        wanted = _target()
        async with (
            connected(wanted, seen.terminal(), Interrupts()) as other,
            connected(wanted, seen.terminal(), Interrupts()) as joined,
        ):
            await joined.revive(GONE, seen.terminal())
            assert "A server is running there again." in seen.messages
            other.close()
            await joined.revive(GONE, seen.terminal())
            assert (await joined.client.health()).status == "ok"

    asyncio.run(revive())
    assert seen.messages.count("No server is running") == 1
    assert seen.messages.count("The server has ended. Starting a new one.") == 1


def test_client_moves_to_the_port_of_its_new_server(seen: Seen) -> None:
    async def revive() -> None:
        wanted = _target()
        async with connected(wanted, seen.terminal(), Interrupts()) as connection:
            before = connection.client.url
            connection.close()
            with socket.create_server(("127.0.0.1", int(wanted.environ["LLM_PORT"]))):
                await connection.revive(GONE, seen.terminal())
                assert connection.client.url != before
                assert (await connection.client.models()).current_model == "builtin"

    asyncio.run(revive())


def test_named_server_that_ended_is_reported_with_the_start_command(standin: StandIn, seen: Seen) -> None:
    async def revive() -> None:
        with ExitStack() as running:
            target = ServerTarget({}, url=running.enter_context(served(standin)))
            async with connected(target, seen.terminal(), Interrupts()) as connection:
                await asyncio.to_thread(running.close)
                await connection.revive(GONE, seen.terminal())

    with pytest.raises(Unreachable) as caught:
        asyncio.run(revive())
    assert "Start one with: uvicorn" in str(caught.value.hint)


def test_server_that_closes_the_connection_is_unreachable() -> None:
    async def ask() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0, family=socket.AF_INET)
        async with server, ChatClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
            await anext(client.switch("gpt2"))

    with pytest.raises(Unreachable):
        asyncio.run(ask())
