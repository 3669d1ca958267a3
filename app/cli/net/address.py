"""Checks the address and the API key of a server."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

from app.cli.errors import BadAddress


@dataclass(frozen=True, slots=True)
class Address:
    """The base URL of a server and the headers for it, as httpx takes them. Create it with `address_of`.

    `setting` names the option, variable or file that it comes from; empty if the user has not named it.
    """

    url: str
    headers: Mapping[bytes, bytes]
    setting: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether it is another machine, for which a proxy may be used."""
        host = httpx.URL(self.url).host
        try:
            address = ip_address(host)
        except ValueError:
            return host != "localhost"
        return not (address.is_loopback or address.is_unspecified)

    @property
    def is_encrypted(self) -> bool:
        return httpx.URL(self.url).scheme == "https"


def address_of(url: str, api_key: str | None = None, setting: str = "") -> Address:
    """Returns the address of a server from what the user typed for `setting`.

    Raises:
        BadAddress: the text is not an HTTP address, or the key cannot be sent in a header.
    """
    if not _is_http(url):
        raise BadAddress(
            f"{setting or 'The address'} {url!r} is not an HTTP address.",
            "For example: http://127.0.0.1:8000",
        )
    key = (api_key or "").strip().encode(errors="surrogateescape")  # the bytes as typed
    if any(byte < 0x20 or byte == 0x7F for byte in key):
        raise BadAddress(
            "The API key contains a control character.", "Pass it with --api-key or set LLM_API_KEY."
        )
    return Address(url.rstrip("/"), {b"Authorization": b"Bearer " + key} if key else {}, setting)


def _is_http(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
        port = urlsplit(url).port  # raises ValueError if it is not a port
    except (httpx.InvalidURL, ValueError):
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host) and port != 0 and "%" not in parsed.host
