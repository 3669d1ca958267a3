"""Runs the scripted server in a thread, or as a process that the client starts as its own server."""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator

import uvicorn

from tests.cli.stand_in.routes import build
from tests.cli.stand_in.state import MODELS, StandIn
from tests.waiting import LIMIT_S


@contextlib.contextmanager
def served(state: StandIn, port: int = 0) -> Iterator[str]:
    """Runs the server inside this context and yields its address."""
    listening = _listening(port)
    server = uvicorn.Server(uvicorn.Config(build(state), log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(LIMIT_S)
        listening.close()


def _listening(port: int) -> socket.socket:
    """A socket with IPPROTO_TCP, as asyncio's own are: without it, asyncio leaves Nagle's algorithm on."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen()
    return listening


def main() -> None:
    """Takes the environment of a real server. LLM_MODEL_NAME=broken makes it fail; FORGOTTEN names a model to
    remove."""
    if os.environ.get("LLM_MODEL_NAME") == "broken":
        sys.exit("Wrong settings. LLM_MODEL_NAME: there is no model named 'broken'.")
    models = {name: model_id for name, model_id in MODELS.items() if name != os.environ.get("FORGOTTEN")}
    threading.Thread(target=_exit_on_stdin_close, daemon=True).start()
    uvicorn.run(build(StandIn(models)), host=os.environ["LLM_HOST"], port=int(os.environ["LLM_PORT"]))


def _exit_on_stdin_close() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
