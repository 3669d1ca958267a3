"""Owns what an address of a server is, and what its key may be."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from app.cli.errors import BadAddress


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and what it asks for, as httpx takes both. Made by `address_of`."""

    url: str
    headers: Mapping[bytes, bytes]

    @property
    def is_remote(self) -> bool:
        """Whether a proxy may stand on the way."""
        return httpx.URL(self.url).host not in ("127.0.0.1", "localhost", "::1")

    @property
    def is_encrypted(self) -> bool:
        return httpx.URL(self.url).scheme == "https"


def address_of(url: str, api_key: str | None = None) -> Address:
    """
    Raises:
        BadAddress: the address is none of http, or the key cannot stand in a header.
    """
    if not _is_http(url):
        raise BadAddress(f"--url {url!r} is no http address.", "One is like http://127.0.0.1:8000")
    key = (api_key or "").strip().encode(errors="surrogateescape")  # the bytes that were typed
    if any(byte < 0x20 or byte == 0x7F for byte in key):
        raise BadAddress("The API key holds a control character.", "Give it with --api-key, or LLM_API_KEY.")
    return Address(url.rstrip("/"), {b"Authorization": b"Bearer " + key} if key else {})


def _is_http(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
        port = urlsplit(url).port  # raises where it is none
    except (httpx.InvalidURL, ValueError):
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host) and port != 0 and "%" not in parsed.host
