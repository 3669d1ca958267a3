"""The causes of failures to connect, with real sockets."""

import asyncio
import errno
import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from app.cli.errors import Unreachable
from app.cli.net.address import address_of
from app.cli.net.client import ChatClient
from app.cli.net.failures import unreachable
from app.cli.net.server import choose_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
AUTHORITY = trustme.CA()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await reader.read(1):
        writer.write(OK)
        await writer.drain()
    writer.close()


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


def _failure(url: str) -> Unreachable:
    """The error of a request to the address."""

    async def ask() -> None:
        async with ChatClient(url) as client:
            await client.health()

    with pytest.raises(Unreachable) as caught:
        asyncio.run(ask())
    return caught.value


def _failure_at(scheme: str, server_context: ssl.SSLContext | None, hangs_up: bool = False) -> Unreachable:
    """The error of a request to a server on this machine, with or without TLS."""

    async def ask() -> None:
        answer = _hang_up if hangs_up else _answer
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context)
        port = server.sockets[0].getsockname()[1]
        async with server, ChatClient(f"{scheme}://127.0.0.1:{port}") as client:
            await client.health()

    with pytest.raises(Unreachable) as caught:
        asyncio.run(ask())
    return caught.value


def _server_context(*names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("host", "shown"), [("localhost", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2")]
)
def test_refused_connection_suggests_a_command_for_the_named_port(
    monkeypatch: pytest.MonkeyPatch, host: str, shown: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:7890/")  # not for servers on this machine
    port = choose_port("127.0.0.1", 0)
    error = _failure(f"http://{host}:{port}")
    assert error.message == f"No server answers at http://{host}:{port} (connection refused)."
    assert error.hint == f"Start one with: uvicorn app.main:app --host {shown} --port {port}"


@pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'a' * 70}.invalid"])
def test_unknown_name_is_reported(host: str) -> None:
    assert f"(the name {host} is not found)" in _failure(f"http://{host}:8000").message


def test_untrusted_certificate_is_reported() -> None:
    error = _failure_at("https", _server_context("127.0.0.1"))
    assert "(its certificate is not trusted: " in error.message and "SSL_CERT_FILE" in str(error.hint)


def test_certificate_of_another_host_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    error = _failure_at("https", _server_context("example.org"))
    assert "IP address mismatch" in error.message


def test_local_server_is_trusted_by_ssl_cert_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    error = _failure_at("https", _server_context("127.0.0.1"), hangs_up=True)
    assert "(connection closed)" in error.message  # the handshake succeeded


def test_encryption_towards_a_server_without_it_is_reported() -> None:
    error = _failure_at("https", None)
    assert "(it does not speak TLS)" in error.message and str(error.hint).startswith("Try http://127.0.0.1:")


def test_request_without_encryption_to_a_server_with_it_is_reported() -> None:
    error = _failure_at("http", _server_context("127.0.0.1"))
    assert "(connection closed)" in error.message and "https://" in str(error.hint)


def _chain(error: httpx.HTTPError, cause: BaseException) -> httpx.HTTPError:
    error.__cause__ = cause
    return error


def _tls_failure() -> ssl.SSLError:
    error = ssl.SSLError(1, "bad record")
    error.reason = "BAD_MAC"
    return error


@pytest.mark.parametrize(
    ("error", "reason", "hint"),
    [
        (httpx.ConnectTimeout(""), "connecting timed out", "whether a firewall is in the way"),
        (httpx.ReadTimeout(""), "timed out", "Is it running?"),
        (
            _chain(httpx.ConnectError(""), OSError(errno.EHOSTUNREACH, "No route to host")),
            "no route to host",
            "the network",
        ),
        (_chain(httpx.ConnectError(""), _tls_failure()), "TLS failed: BAD_MAC", "its log"),
        (
            _chain(httpx.ConnectError(""), ConnectionRefusedError()),
            "connection refused",
            "Is a server running on gpu-box, and may others connect to port 8000 there?",
        ),
        (httpx.ConnectError("all attempts failed"), "connecting failed: all attempts failed", "the network"),
    ],
)
def test_cause_decides_the_reason_and_the_hint(error: httpx.HTTPError, reason: str, hint: str) -> None:
    found = unreachable(address_of("http://gpu-box:8000", None), None, error)
    assert f"({reason}" in found.message and hint in str(found.hint)
