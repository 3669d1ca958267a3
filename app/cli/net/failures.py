"""Says why no server answers, and what to do about it."""

import socket
import ssl
from collections.abc import Iterator

import httpx

from app.cli.errors import Unreachable
from app.cli.net.address import Address
from app.cli.net.environment import Proxy, without_password

_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
_TRUST = "Set SSL_CERT_FILE to the certificate of the authority that signed it."
_IS_IT_RUNNING = "Is it running?"


def unreachable(address: Address, proxy: Proxy | None, error: httpx.HTTPError) -> Unreachable:
    """Returns the error to report for a request that got no answer."""
    origin = f" The address is from {address.setting}." if address.setting else ""
    host = httpx.URL(address.url).host if proxy is None else httpx.URL(proxy.url).host
    reason, hint = _reason(error, address, host)
    if proxy is None:
        return Unreachable(f"No server answers at {address.url} ({reason}).{origin}", hint)
    through = f"through {proxy.variable}, {without_password(proxy.url)}"
    return Unreachable(
        f"No server answers at {address.url} ({through}: {reason}).{origin}",
        f"Correct {proxy.variable}, or name the server in NO_PROXY to connect directly.",
    )


def _reason(error: httpx.HTTPError, address: Address, host: str) -> tuple[str, str]:
    """Returns a few words about the cause, and a hint."""
    for cause in _causes(error):
        match cause:
            case httpx.ConnectTimeout():
                return "connecting timed out", "Check the address, and whether a firewall is in the way."
            case httpx.TimeoutException():
                return "timed out", _IS_IT_RUNNING
            case httpx.ProxyError():
                return f"it refuses: {cause}", ""
            case socket.gaierror():
                return f"the name {host} is not found", "Check the name and the network."
            case ssl.SSLCertVerificationError():
                return f"its certificate is not trusted: {cause.verify_message}", _TRUST
            case ssl.SSLError(reason=str(reason)) if reason in _NO_TLS:
                return "it does not speak TLS", f"Try http:{address.url.partition(':')[2]}"
            case ssl.SSLError():
                return f"TLS failed: {cause.reason or cause}", "Check the server's certificate and its log."
            case ConnectionRefusedError():
                return "connection refused", _how_to_start(address)
            case OSError(errno=int(), strerror=str(text)):
                return text.lower(), "Check the address and the network."
    if isinstance(error, httpx.ConnectError):
        return f"connecting failed: {error}", "Check the address and the network."
    hint = _IS_IT_RUNNING if address.is_encrypted else f"{_IS_IT_RUNNING} If it speaks TLS, use https://."
    return "connection closed", hint


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields the error, and all that led to it, outermost first."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:
                yield from _causes(member)
        error = error.__cause__ or error.__context__


def _how_to_start(address: Address) -> str:
    url = httpx.URL(address.url)
    port = url.port or (443 if address.is_encrypted else 80)
    if address.is_remote:
        return f"Is a server running on {url.host}, and may others connect to port {port} there?"
    host = "127.0.0.1" if url.host in ("localhost", "0.0.0.0", "::") else url.host
    return f"Start one with: uvicorn app.main:app --host {host} --port {port}"
