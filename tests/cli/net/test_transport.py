import asyncio
import socket
import sys

import httpx
import pytest

from app.cli.net.address import address_of
from app.cli.net.api_link import SILENCE_S
from app.cli.net.transport import GONE_AFTER_S, transport_for
from tests.waiting import LIMIT_S


@pytest.mark.skipif(sys.platform != "linux", reason="other systems call the options differently")
def test_a_connection_in_which_nothing_arrives_is_probed() -> None:
    has_left = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
        await reader.read()  # until the client leaves
        writer.close()
        await writer.wait_closed()
        has_left.set()

    async def option_values() -> tuple[int, int, int, int]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = "http://{}:{}".format(*server.sockets[0].getsockname())
        transport = transport_for(address_of(url), None)
        async with server, httpx.AsyncClient(transport=transport) as http, http.stream("GET", url) as reply:
            connection = reply.extensions["network_stream"].get_extra_info("socket")
            values = (
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
            )
        await asyncio.wait_for(has_left.wait(), LIMIT_S)
        return values

    is_on, idle_s, every_s, probes = asyncio.run(option_values())
    assert is_on == 1 and idle_s + every_s * probes == GONE_AFTER_S <= SILENCE_S
