"""Starts and stops the server process: checks its port, handles stop signals, watches its parent process."""

import asyncio
import errno
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

from app.core.api_keys import KeyRing
from app.core.config import SettingsError
from app.core.machine import open_files_limit
from app.core.telemetry.tracer import Tracer
from app.services import ChatService, ModelService, StorageService

logger = logging.getLogger(__name__)


_LEAST_FILES = 32  # a server with one model has 23 open; the others are for connections


class StartError(Exception):
    """The server cannot start here. The message has the reason."""


def check_open_files() -> None:
    """Raises StartError if this process may open too few files to accept a connection."""
    if (limit := open_files_limit()) < _LEAST_FILES:
        raise StartError(
            f"This process may open only {limit} files; the server needs {_LEAST_FILES}. "
            "Raise the limit (`ulimit -n`)."
        )


def check_address(host: str, port: int) -> None:
    """Raises StartError if no server can listen at the address."""
    try:
        _listen_once(host, port)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise StartError(f"LLM_HOST: {host} is not an address of this machine.") from None
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"Port {port} is in use. Stop the other server (`lsof -i :{port}` shows its process id), "
                "or choose another port: `--port NUMBER` or LLM_PORT."
            ) from None
        reason = os.strerror(error.errno or 0)
        raise StartError(f"LLM_HOST, LLM_PORT: cannot listen on {host}, port {port}: {reason}.") from None


def _listen_once(host: str, port: int) -> None:
    """Listens at the host's first address of each family for a moment.

    One family is enough, as for asyncio's server. Raises OSError if none works.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = {family: address for family, _, _, _, address in reversed(found)}
    missing: list[OSError] = []
    for family, address in addresses.items():
        try:
            socket.create_server(address, family=family).close()
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            missing.append(error)
    if len(missing) == len(addresses):
        raise missing[0]


def stop_at_end_of_stdin() -> None:
    """Starts a thread that stops the server when standard input closes, which means that its owner ended."""
    threading.Thread(target=_read_stdin_to_its_end, daemon=True).start()


def _read_stdin_to_its_end() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@asynccontextmanager
async def running(models: ModelService, chats: ChatService) -> AsyncIterator[asyncio.Event]:
    """Starts the models, and closes turns and models at the first stop signal or at the end of the block.

    Yields the event that a stop signal sets, for an owner that stops the application in another way. The
    server leaves the block only after its last stream has ended. Because turns and models close at the
    signal, each open stream ends with a `done` or `error` event of its own.
    """
    stopping = asyncio.Event()
    closing = asyncio.create_task(_close_after(stopping, models, chats))
    try:
        await models.start()
        with _set_at_signal(stopping), _stopped_with_parent():
            yield stopping
    finally:
        stopping.set()
        await closing


async def _close_after(stopping: asyncio.Event, models: ModelService, chats: ChatService) -> None:
    await stopping.wait()
    await chats.close()
    await models.close()


@contextmanager
def _set_at_signal(stopping: asyncio.Event) -> Iterator[None]:
    """Sets the event on SIGTERM and SIGINT, then calls the handler that the server had installed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may install handlers; in another thread, the server is part of a test
        return
    loop = asyncio.get_running_loop()
    installed = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stopping.set)
        handler = installed[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in installed.items():
        if callable(handler):
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in installed.items():
            signal.signal(number, handler)


@asynccontextmanager
async def closing_tracer(tracer: Tracer) -> AsyncIterator[None]:
    """Sends the last spans at the end of the block."""
    try:
        yield
    finally:
        await asyncio.to_thread(tracer.close)  # it may wait for a collector


@asynccontextmanager
async def open_storage(storage: StorageService) -> AsyncIterator[None]:
    """Opens the storage of conversations, and closes it at the end of the block."""
    try:
        await storage.start()
        yield
    finally:
        await storage.close()


@asynccontextmanager
async def reloading(keys: KeyRing) -> AsyncIterator[None]:
    """Reads the keys again on each SIGHUP, if they come from a file. Wrong ones are logged and not used."""
    hangup = asyncio.Event()
    with _set_at_hangup(hangup, keys):
        task = asyncio.create_task(_reload_after(hangup, keys))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _reload_after(hangup: asyncio.Event, keys: KeyRing) -> None:
    while await hangup.wait():
        hangup.clear()
        try:
            await asyncio.to_thread(keys.reload)  # a disk may be slow
            logger.info("API keys read again: keys=%d", len(keys))
        except SettingsError as error:
            logger.error("The API keys stay as they were. %s", error)


@contextmanager
def _set_at_hangup(hangup: asyncio.Event, keys: KeyRing) -> Iterator[None]:
    is_main = threading.current_thread() is threading.main_thread()  # another one may install no handler
    if not (keys.is_from_file and is_main and hasattr(signal, "SIGHUP")):
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


@contextmanager
def _stopped_with_parent() -> Iterator[None]:
    """Stops the server when its parent dies, because `uvicorn --reload` serves from a child process."""
    parent = multiprocessing.parent_process()
    if parent is None:
        yield
        return
    loop = asyncio.get_running_loop()
    sentinel = parent.sentinel

    def stop() -> None:
        loop.remove_reader(sentinel)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(sentinel, stop)
    try:
        yield
    finally:
        loop.remove_reader(sentinel)
