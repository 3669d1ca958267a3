"""The worker's end of the message socket."""

import contextlib

import zmq

from app.engine.ipc.messages import Inbound, Outbound, decode_inbound, encode

_LINGER_MS = 2000  # how long `close` may still send the last messages


class WorkerLink:
    """Connects to the server's socket at `address`."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.connect(address)

    def send(self, message: Outbound) -> None:
        self._socket.send(encode(message))

    def receive(self, timeout_s: float) -> list[Inbound]:
        """Returns all messages that have arrived, and waits up to `timeout_s` for the first."""
        messages: list[Inbound] = []
        self._socket.poll(int(timeout_s * 1000))
        with contextlib.suppress(zmq.Again):
            while True:
                messages.append(decode_inbound(self._socket.recv(zmq.NOBLOCK)))
        return messages

    def close(self) -> None:
        self._socket.close()
        self._context.term()
