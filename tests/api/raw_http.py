"""Sends what HTTP libraries do not: bytes that are no request, and requests whose client leaves."""

import json
import socket
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection
from threading import Event
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


def leave(url: str, path: str, body: Mapping[str, object], when: Event) -> None:
    """Posts a request, and closes its connection once the event is set, without having read an answer."""
    address = urlsplit(url)
    assert address.hostname is not None
    with closing(HTTPConnection(address.hostname, address.port, timeout=LIMIT_S)) as connection:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        assert when.wait(LIMIT_S)
