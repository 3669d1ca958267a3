"""`python -m app`: the server, at the host and port of the settings."""

import argparse
import errno
import os
import signal
import socket
import sys
import threading

import uvicorn

from app.api.http_protocol import DeadlineProtocol
from app.core.config import SettingsError, load_settings
from app.core.logging import configure
from app.main import create_app

_GRACE_S = 10  # for open answers to end after SIGTERM


def main() -> None:
    if _arguments().exit_on_stdin_close:
        threading.Thread(target=_exit_on_stdin_close, daemon=True).start()
    try:
        settings = load_settings()
        _check_address(settings.host, settings.port)
        app = create_app(settings)
    except SettingsError as error:
        sys.exit(f"Wrong settings. {error}")
    configure(settings.log_level)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        http=DeadlineProtocol,
        timeout_graceful_shutdown=_GRACE_S,
    )


def _check_address(host: str, port: int) -> None:
    """Ends the process where nothing can listen at the address, before anything is built."""
    try:
        _listen_once(host, port)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            sys.exit(f"LLM_HOST: {host} is no address of this machine.")
        if error.errno == errno.EADDRINUSE:
            sys.exit(f"Port {port} is in use: stop the other server or set LLM_PORT.")
        why = os.strerror(error.errno or 0)
        sys.exit(f"LLM_HOST, LLM_PORT: no server can listen at {host}, port {port}: {why}.")


def _listen_once(host: str, port: int) -> None:
    """At the first address that the host has in each family. Raises OSError where the server's loop would:
    of several families one is enough."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    families = {family: address for family, _, _, _, address in reversed(found)}
    missing: list[OSError] = []
    for family, address in families.items():
        try:
            socket.create_server(address, family=family).close()
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            missing.append(error)
    if len(missing) == len(families):
        raise missing[0]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m app", description="The server. Settings: LLM_*, .env.")
    parser.add_argument("--exit-on-stdin-close", action="store_true", help="end when standard input does")
    return parser.parse_args()


def _exit_on_stdin_close() -> None:
    """Whoever started the server holds the other end of a pipe: the server ends when they do."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
