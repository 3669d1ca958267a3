"""Reads and checks the environment variables of the Hub's HTTP client: proxies and certificates.

Without the check, their mistakes look like a network that is broken.
"""

import os
import ssl
import stat
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from app.core.errors import HubUnreachable

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")


def refuse_unusable_environment(environ: Mapping[str, str] = os.environ) -> None:
    """Raises HubUnreachable, which names the variable, if the client could not even be made."""
    for name in _PROXIES:
        for variable in (name.lower(), name):
            if value := environ.get(variable, "").strip():
                _check_proxy(variable, value)
    _check_certificates(environ)


def _check_proxy(variable: str, value: str) -> None:
    import httpx  # imported here, because only a download needs it

    try:
        httpx.HTTPTransport(proxy=value if "://" in value else f"http://{value}", verify=False).close()
    except ImportError:
        raise HubUnreachable(
            f"{variable} names a SOCKS proxy, for which a package is missing.",
            hint="Install it with: pip install 'httpx[socks]'",
        ) from None
    except (ValueError, httpx.InvalidURL):
        raise HubUnreachable(
            f"{variable} does not hold the address of a proxy that the server can use.",
            hint="Set it to an address such as http://127.0.0.1:3128 or socks5://127.0.0.1:1080.",
        ) from None


def _check_certificates(environ: Mapping[str, str]) -> None:
    file = environ.get("SSL_CERT_FILE")
    if file and (mistake := _certificate_mistake(file)):
        raise HubUnreachable(
            f"SSL_CERT_FILE is {file!r}, which cannot be used: {mistake}.",
            hint="Set it to a file with certificates in PEM format, or unset it.",
        )


def _certificate_mistake(file: str) -> str | None:
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # reading a pipe might never end
            return "it is not a regular file"
        ssl.create_default_context(cafile=file)
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError):
        return "it holds no certificates"
    return None


def network_address(endpoint: str) -> tuple[str, int]:
    """Returns the host and port for connections to the Hub: its own, or those of a proxy."""
    url = urlsplit(endpoint)
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and url.hostname and not proxy_bypass(url.hostname):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
