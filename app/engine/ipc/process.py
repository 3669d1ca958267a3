"""One worker process and the connections to it: a socket for messages, and a life-line on its standard input.

The worker exits when this end of the life-line is closed, even by the death of this process.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

import msgspec
import zmq

from app.engine.ipc.child_process import ChildProcess, is_stopped
from app.engine.ipc.heartbeat import Beat
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.messages import Inbound, Outbound, Shutdown, WorkerSpec, decode_outbound, encode
from app.engine.ipc.socket_folder import WORKER, SocketFolder

SHUTDOWN_GRACE_S = 3.0
_LAST_WORDS_S = 0.05  # for which the messages of a worker that has ended may still be on their way
_MOST_AT_ONCE = 64  # messages that are read before the event loop does something else


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

    @property
    def is_stopped(self) -> bool:
        """Whether a signal such as SIGSTOP keeps the process from running."""
        return is_stopped(self.pid)

    def send(self, message: Inbound) -> None:
        self._link.send(encode(message))

    async def messages(self) -> AsyncGenerator[Outbound, None]:
        """Yields the worker's messages until it has ended and nothing is left to read."""
        ended = asyncio.create_task(self._process.wait())
        ended.add_done_callback(lambda _: self._link.has_news.set())
        try:
            while not self._link.is_closed:
                received = self._link.receive()
                for message in received:
                    yield decode_outbound(message)
                if len(received) == _MOST_AT_ONCE:
                    await asyncio.sleep(0)
                elif not await self._link.wait_for_news(_LAST_WORDS_S if ended.done() else None):
                    return
        finally:
            ended.cancel()

    async def beats(self) -> AsyncGenerator[Beat, None]:
        """Yields the worker's heartbeats, which come every half second while it serves."""
        with contextlib.suppress(ConnectionError):
            async for line in self._heart:
                yield msgspec.json.decode(line, type=Beat)

    def kill(self) -> None:
        self._process.kill()

    async def close(self, *, grace_s: float = SHUTDOWN_GRACE_S) -> None:
        """Asks the process to end; kills it after `grace_s`, or at once if cancelled. May be called again.

        A process that has sent nothing yet is killed at once: it could not be asked.
        """
        try:
            if self.is_alive and self._link.is_connected and grace_s > 0:
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
    """This end of the socket pair, in a folder that only this user may enter.

    The event loop watches the socket's descriptor, because zmq.asyncio's futures take longer than a message.
    It reports each change only once, so that `receive` must be called after each, and after each send.
    """

    def __init__(self) -> None:
        self._folder = SocketFolder()
        self._is_named = True
        self.has_news = asyncio.Event()  # whether there may be something to receive
        self.address = f"ipc://{self._folder.path / WORKER}"
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(self._socket.FD)
        self._loop.add_reader(self._descriptor, self._note_news)
        try:
            self._socket.bind(self.address)
        except zmq.ZMQError as error:
            self.close()
            raise OSError(error.errno, f"the socket {self.address} cannot be made") from error

    @property
    def is_closed(self) -> bool:
        return bool(self._socket.closed)

    @property
    def is_connected(self) -> bool:
        """Whether the worker has sent a message, and this end is open. Only then a message may be sent."""
        return not self.is_closed and not self._is_named

    def send(self, message: bytes) -> None:
        """Sends without waiting. A message is lost if the worker has ended, or has not connected yet."""
        with contextlib.suppress(zmq.Again):
            self._socket.send(message, zmq.NOBLOCK)
        self.has_news.set()

    def receive(self) -> list[bytes]:
        """Returns the messages that have arrived, some of them if there are many."""
        self.has_news.clear()
        messages: list[bytes] = []
        with contextlib.suppress(zmq.Again):
            while len(messages) < _MOST_AT_ONCE:
                messages.append(self._socket.recv(zmq.NOBLOCK))
        if messages:
            self._leave_folder()
        return messages

    async def wait_for_news(self, timeout_s: float | None) -> bool:
        """Waits until there may be something to receive. Returns False if there is nothing in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.has_news.wait()
        except TimeoutError:
            return False
        return True

    def _note_news(self) -> None:
        self._socket.getsockopt(zmq.EVENTS)  # or the descriptor would wake the loop until the next `receive`
        self.has_news.set()

    def _leave_folder(self) -> None:
        """Removes the folder, which is needed only until the worker has connected."""
        if self._is_named:
            self._folder.close()
            self._is_named = False

    def close(self) -> None:
        if not self.is_closed:
            self._loop.remove_reader(self._descriptor)
            self._socket.close()
        self.has_news.set()
        self._leave_folder()
