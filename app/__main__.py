"""`python -m app`: the server, at the host and port of the settings."""

import argparse
import errno
import os
import signal
import socket
import sys
import threading

import uvicorn

from app.core.config import SettingsError, load_settings
from app.core.logging import configure
from app.main import create_app

_GRACE_S = 10  # for open answers to end after SIGTERM


def main() -> None:
    if _arguments().exit_on_stdin_close:
        threading.Thread(target=_exit_on_stdin_close, daemon=True).start()
    try:
        settings = load_settings()
        _check_port(settings.host, settings.port)
        app = create_app(settings)
    except SettingsError as error:
        sys.exit(f"Wrong settings. {error}")
    configure(settings.log_level)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=_GRACE_S,
    )


def _check_port(host: str, port: int) -> None:
    """Ends the process where the port is taken, before anything is built.

    Of any other trouble the server tells when it listens.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            sys.exit(f"Port {port} is in use: stop the other server or set LLM_PORT.")


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
