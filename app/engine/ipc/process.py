"""Owns one worker process and the socket to it: spawn, send, receive until it dies, end.

Knows nothing of requests. No torch here. The worker ends when this end closes, is cancelled or dies: it
reads a life-line on its stdin.
"""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from app.engine.ipc.messages import Inbound, Outbound, Shutdown, WorkerSpec, decode_outbound, encode

SHUTDOWN_GRACE_S = 3.0
SECRETS = ("LLM_API_KEY", "LLM_HF_TOKEN", "HF_TOKEN")


class WorkerProcess:
    """A child that runs app.engine.worker. Made by `spawn`; `close` must be awaited."""

    def __init__(self, process: asyncio.subprocess.Process, link: "_Link") -> None:
        self._process = process
        self._link = link

    @classmethod
    async def spawn(cls, spec: WorkerSpec) -> "WorkerProcess":
        """Raises OSError where the machine has no room for another process, socket or folder."""
        link = _Link()
        try:
            command = (sys.executable, "-m", "app.engine.worker", link.address)
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, env=_environment()
            )
        except BaseException:
            link.close()
            raise
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(spec) + b"\n")
        return cls(process, link)

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Inbound) -> None:
        # Without a high-water mark a send never blocks, so the future that pyzmq gives is done already.
        self._link.socket.send(encode(message))

    async def messages(self) -> AsyncGenerator[Outbound, None]:
        """Everything the worker says, until it has ended and nothing is left to read."""
        ended = asyncio.create_task(self._process.wait())
        try:
            while True:
                received = asyncio.ensure_future(self._link.socket.recv())
                await asyncio.wait((received, ended), return_when=asyncio.FIRST_COMPLETED)
                if received.cancelled() or not (received.done() or await self._has_more()):
                    received.cancel()
                    return
                message = decode_outbound(await received)
                self._link.leave_folder()
                yield message
        finally:
            ended.cancel()

    async def _has_more(self) -> bool:
        """Nothing comes by a link that is closed, or is being closed meanwhile."""
        socket = self._link.socket
        try:
            return not socket.closed and bool(await socket.poll(timeout=50))
        except zmq.ZMQError:
            if socket.closed:
                return False
            raise

    def kill(self) -> None:
        if self.is_alive:
            self._process.kill()

    async def close(self, *, grace_s: float = SHUTDOWN_GRACE_S) -> None:
        """Ends the process: asked first, killed after a grace, at once if this is cancelled. Idempotent."""
        try:
            if self.is_alive and not self._link.socket.closed and grace_s > 0:
                self.send(Shutdown())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), grace_s)
        finally:
            self.kill()
            self._link.close()
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def describe_end(self) -> str:
        """`signal 9` or `exit status 1`."""
        code = self._process.returncode
        if code is None:
            return "given up by the server"
        return f"signal {-code}" if code < 0 else f"exit status {code}"


class _Link:
    """This end of the socket pair, in a folder that only this user may enter."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="llm-"))
        self._is_named = True
        self.address = f"ipc://{self._folder}/worker"
        self.socket = zmq.asyncio.Context.instance().socket(zmq.PAIR)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.bind(self.address)

    def leave_folder(self) -> None:
        """Once the worker is connected nobody needs the name; it would outlive a server that is killed."""
        if self._is_named:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._is_named = False

    def close(self) -> None:
        self.socket.close()
        self.leave_folder()


def _environment() -> dict[str, str]:
    """The worker's environment: no secrets, no fetching, and `app` is found where this process found it."""
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    fixed = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}
    return {name: value for name, value in os.environ.items() if name not in SECRETS} | fixed
