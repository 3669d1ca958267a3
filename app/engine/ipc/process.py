"""One worker process and the connections to it: a socket for messages, and a life-line on its standard input.

The worker exits when this end of the life-line is closed, even by the death of this process.
"""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncGenerator

import msgspec
import zmq
import zmq.asyncio

from app.engine.ipc.child_process import ChildProcess
from app.engine.ipc.heartbeat import Beat
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.messages import Inbound, Outbound, Shutdown, WorkerSpec, decode_outbound, encode
from app.engine.ipc.socket_folder import make_socket_folder

SHUTDOWN_GRACE_S = 3.0


class WorkerProcess:
    """A process that runs app.engine.worker. Create it with `start`, and await `close`."""

    def __init__(
        self,
        process: ChildProcess,
        link: "_MessageSocket",
        heart: asyncio.StreamReader,
        life_line: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._link = link
        self._heart = heart
        self._life_line = life_line

    @classmethod
    async def start(cls, spec: WorkerSpec, launcher: WorkerLauncher) -> "WorkerProcess":
        """Raises OSError if the machine has no room for another process, socket or folder."""
        with contextlib.ExitStack() as undo:
            link = _MessageSocket()
            undo.callback(link.close)
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                process = await launcher.launch(link.address, theirs)
            heart, life_line = await asyncio.open_unix_connection(sock=ours)
            undo.pop_all()
        life_line.write(msgspec.json.encode(spec) + b"\n")
        return cls(process, link, heart, life_line)

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Inbound) -> None:
        # Without a high-water mark a send never blocks, so the future that pyzmq returns is already done.
        self._link.socket.send(encode(message))

    async def messages(self) -> AsyncGenerator[Outbound, None]:
        """Yields the worker's messages until it has ended and nothing is left to read."""
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

    async def beats(self) -> AsyncGenerator[Beat, None]:
        """Yields the worker's heartbeats, which come every half second while it serves."""
        with contextlib.suppress(ConnectionError):
            async for line in self._heart:
                yield msgspec.json.decode(line, type=Beat)

    async def _has_more(self) -> bool:
        """Returns whether another message can be read. A link that is closed meanwhile has none."""
        socket = self._link.socket
        try:
            return not socket.closed and bool(await socket.poll(timeout=50))
        except zmq.ZMQError:
            if socket.closed:
                return False
            raise

    def kill(self) -> None:
        self._process.kill()

    async def close(self, *, grace_s: float = SHUTDOWN_GRACE_S) -> None:
        """Asks the process to end; kills it after `grace_s`, or at once if cancelled. May be called again."""
        try:
            if self.is_alive and not self._link.socket.closed and grace_s > 0:
                self.send(Shutdown())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), grace_s)
        finally:
            self.kill()
            self._link.close()
            self._life_line.close()
        await self._process.wait()

    def describe_end(self) -> str:
        """Returns `signal 9` or `exit status 1`, for example."""
        code = self._process.exit_code
        if code is None:
            return "abandoned by the server" if self.is_alive else "exit status unknown"
        return f"signal {-code}" if code < 0 else f"exit status {code}"


class _MessageSocket:
    """This end of the socket pair, in a folder that only this user may enter."""

    def __init__(self) -> None:
        self._folder = make_socket_folder()
        self._is_named = True
        self.address = f"ipc://{self._folder}/worker"
        self.socket = zmq.asyncio.Context.instance().socket(zmq.PAIR)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        try:
            self.socket.bind(self.address)
        except zmq.ZMQError as error:
            self.close()
            raise OSError(error.errno, f"the socket {self.address} cannot be made") from error

    def leave_folder(self) -> None:
        """Removes the folder, which is needed only until the worker has connected."""
        if self._is_named:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._is_named = False

    def close(self) -> None:
        self.socket.close()
        self.leave_folder()
