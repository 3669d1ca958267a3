"""Takes the proxy and the certificates for a server from the same environment variables as curl."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it

import certifi
import httpx

from app.cli.errors import ConfigError
from app.cli.files import check_regular
from app.cli.net.address import Address

_PROXY_HINT = "Set it to an address such as http://127.0.0.1:3128, or name the server in NO_PROXY."
_SOCKS_HINT = "Install support for it with: pip install 'httpx[socks]'"


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy for a server, and the environment variable that names it."""

    variable: str
    url: str


def proxy_for(address: Address, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """Returns the proxy to use, if any. Servers on this machine and in NO_PROXY need none.

    Raises:
        ConfigError: the proxy is not an address, or needs a package that is not installed.
    """
    url = httpx.URL(address.url)
    no_proxy = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    if not address.is_remote or proxy_bypass_environment(url.host, {"no": no_proxy}):
        return None
    for name in (f"{url.scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if value := environ.get(variable, "").strip():
                return _checked(Proxy(variable, value if "://" in value else f"http://{value}"))
    return None


def _checked(proxy: Proxy) -> Proxy:
    shown = without_password(proxy.url)
    try:
        _ = urlsplit(proxy.url).port  # raises ValueError if it is not a port
        httpx.HTTPTransport(proxy=proxy.url, verify=False).close()
    except ImportError:
        raise ConfigError(f"{proxy.variable} names a SOCKS proxy, {shown}.", _SOCKS_HINT) from None
    except (ValueError, httpx.InvalidURL):
        message = f"{proxy.variable} is {shown!r}, which is not the address of a proxy."
        raise ConfigError(message, _PROXY_HINT) from None
    return proxy


def without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def certificates_for(address: Address, environ: Mapping[str, str] = os.environ) -> ssl.SSLContext | bool:
    """Returns the authorities for certificates: those of SSL_CERT_FILE and SSL_CERT_DIR, or the usual ones.

    Returns False if the connection is not encrypted.

    Raises:
        ConfigError: a file that the environment names cannot be used.
    """
    if not address.is_encrypted:
        return False
    file, folder = environ.get("SSL_CERT_FILE") or None, environ.get("SSL_CERT_DIR") or None
    variable = "SSL_CERT_FILE"
    try:
        if file:
            check_regular(Path(file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(file or (None if folder else certifi.where()), folder)
        variable = "SSLKEYLOGFILE"
        if environ.get(variable):
            context.keylog_filename = environ[variable]
    except (OSError, ValueError) as error:
        reason = None if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
        raise ConfigError(
            f"{variable} is {environ.get(variable)!r}, which cannot be used: {reason or error}."
        ) from None
    return context
