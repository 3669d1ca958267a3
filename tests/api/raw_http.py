"""Sends bytes that no HTTP library would send."""

import socket
from urllib.parse import urlsplit

from tests.waiting import LIMIT_S


def exchange(url: str, *parts: bytes) -> bytes:
    """Everything that the server sends before it closes the connection."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=LIMIT_S) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer
