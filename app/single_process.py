"""Refuses to serve from several processes: conversations live in one, so the others would not find them."""

import asyncio
import multiprocessing
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.config import SettingsError

REFUSAL = (
    "the server keeps its conversations in one process, so it cannot run as several. "
    "docs/operations.md says how to have more than one server."
)
_POLL_S = 0.25


def check_single_process(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Raises SettingsError if uvicorn was asked to serve from several processes, of which this is one."""
    is_child = multiprocessing.parent_process() is not None
    is_reloading = "--reload" in arguments or environ.get("UVICORN_RELOAD", "0").lower() not in ("0", "false")
    if is_child and not is_reloading and asked_workers(arguments, environ) not in ("", "1"):
        raise SettingsError(f"--workers, WEB_CONCURRENCY: {REFUSAL}")


def asked_workers(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """Returns the number of processes that uvicorn was asked for."""
    for argument, following in pairwise([*arguments, ""]):
        if argument == "--workers":
            return following
        if argument.startswith("--workers="):
            return argument.removeprefix("--workers=")
    return environ.get("UVICORN_WORKERS") or environ.get("WEB_CONCURRENCY", "")


class SingleProcess:
    """Middleware that fails the start-up if another process serves the same socket (Linux).

    Several workers of gunicorn or uvicorn share the socket that their parent opened, however they were asked
    for. A worker that is about to be replaced gets `patience_s` to end. On other systems it checks nothing.
    """

    def __init__(self, app: ASGIApp, patience_s: float = 5.0) -> None:
        self._app = app
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        with ExitStack() as claims:
            if await self._claim_all(claims):
                await self._app(scope, receive, send)
                return
        await receive()
        await send({"type": "lifespan.startup.failed", "message": REFUSAL[0].upper() + REFUSAL[1:]})

    async def _claim_all(self, claims: ExitStack) -> bool:
        """Claims every server's socket that this process was given. Returns whether it has got all."""
        deadline = time.monotonic() + self._patience_s
        for inode in server_sockets():
            while (claim := claim_socket(inode)) is None:
                if time.monotonic() > deadline:
                    return False
                await asyncio.sleep(_POLL_S)
            claims.enter_context(claim)
        return True


def server_sockets() -> list[int]:
    """Returns the inodes of the sockets at which this process can accept connections; empty if unknown."""
    return sorted(set(_find_server_sockets())) if sys.platform == "linux" else []


def _find_server_sockets() -> Iterator[int]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode) and _is_for_server(int(name)):
                yield status.st_ino


def _is_for_server(descriptor: int) -> bool:
    """Returns whether the socket has an address and no peer. It may not listen yet."""
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        if duplicate.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            return False
        name = duplicate.getsockname()
        has_address = bool(name[1] if isinstance(name, tuple) else name)
        try:
            duplicate.getpeername()
        except OSError:
            return has_address and duplicate.type == socket.SOCK_STREAM
        return False


def claim_socket(inode: int) -> socket.socket | None:
    """Returns a claim to serve the socket, which holds until it is closed; None if another process has it.

    The claim is a name in Linux's abstract namespace, which the kernel frees when its process ends.
    """
    name = f"\0llm-serving-{inode}"
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(name)
        claim.listen()
        return claim
    except OSError:
        is_own = _holder(name) == os.getpid()  # several applications in one process, as in tests
        if is_own:
            return claim
        claim.close()
        return None


def _holder(name: str) -> int | None:
    """Returns the id of the process that holds the name; None if it is free again."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(0)  # its queue may be full
        try:
            asking.connect(name)
        except OSError:
            return None
        answer = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", answer)[0])
