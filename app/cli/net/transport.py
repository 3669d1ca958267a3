"""Opens the client's connections, so that they end soon after the network has gone."""

import socket

import httpx

from app.cli.net.address import Address
from app.cli.net.environment import Proxy, certificates_for

_IDLE_S = 15  # before the first probe of a connection in which nothing arrives
_PROBE_EVERY_S = 5
_PROBES = 4
GONE_AFTER_S = _IDLE_S + _PROBES * _PROBE_EVERY_S

# What each system calls them; those that it lacks are left to it.
_OPTIONS = {
    "TCP_KEEPIDLE": _IDLE_S,
    "TCP_KEEPALIVE": _IDLE_S,  # macOS
    "TCP_KEEPINTVL": _PROBE_EVERY_S,
    "TCP_KEEPCNT": _PROBES,
    "TCP_USER_TIMEOUT": GONE_AFTER_S * 1000,  # ms: a request that is not acknowledged
}


def transport_for(address: Address, proxy: Proxy | None) -> httpx.AsyncHTTPTransport:
    """Returns connections that the system probes while nothing arrives.

    A server sends nothing before the first event of an answer, which may wait in a queue for minutes.

    Raises:
        ConfigError: a certificate that the environment names cannot be used.
    """
    return httpx.AsyncHTTPTransport(
        verify=certificates_for(address),
        trust_env=False,
        proxy=None if proxy is None else proxy.url,
        socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *_tcp_options()],
    )


def _tcp_options() -> list[tuple[int, int, int]]:
    return [
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in _OPTIONS.items()
        if hasattr(socket, name)
    ]
