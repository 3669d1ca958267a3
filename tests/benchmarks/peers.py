"""Starts other servers, each in its own process, to compare this one with them."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import httpx

from app.engine.layers.packed_linear import computes_in_bfloat16
from tests.server import free_port

_START_S = 180.0
_END_S = 20.0
_LAST_WORDS = 600  # bytes


@dataclass(frozen=True)
class Peer:
    """A server to compare with. `command` contains `{port}` for the port, and every request `fields`."""

    name: str
    command: tuple[str, ...]
    fields: dict[str, object] = field(default_factory=dict)


def transformers_serve(python: Path, folder: Path, *, batches: bool) -> Peer:
    """transformers serve, in bfloat16 if the processor supports it, otherwise in float32."""
    dtype = "bfloat16" if computes_in_bfloat16() else "float32"
    options = ("--continuous-batching",) if batches else ()
    serve = (str(python), "-m", "transformers.cli.transformers", "serve", "--host", "127.0.0.1")
    return Peer(
        "tf serve CB" if batches else "tf serve",
        (*serve, "--port", "{port}", "--dtype", dtype, "--device", "cpu", *options),
        {"model": str(folder.resolve())},
    )


def llama_server(binary: Path, gguf: Path, *, slots: int, slot_tokens: int) -> Peer:
    room = ("-np", str(slots), "-c", str(slots * slot_tokens))
    return Peer(
        "llama-server",
        (str(binary), "-m", str(gguf), "--host", "127.0.0.1", "--port", "{port}", *room),
        {"ignore_eos": True, "cache_prompt": True, "stream_options": {"include_usage": True}},
    )


@contextmanager
def running(peer: Peer) -> Iterator[str]:
    """Starts the server, yields its address, and stops it at the end.

    Raises:
        RuntimeError: the server does not answer or closes a connection. The message has the end of its log.
    """
    port = str(free_port())
    command = [part.replace("{port}", port) for part in peer.command]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment | {"HF_HUB_OFFLINE": "1"},
        )
        try:
            url = f"http://127.0.0.1:{port}"
            if not _answers(process, url):
                raise RuntimeError(f"{peer.name} did not start: {_last_words(log)}")
            yield url
        except httpx.HTTPError as error:
            raise RuntimeError(f"{error}: {_last_words(log)}") from error
        finally:
            _end(process)


def _last_words(log: BinaryIO) -> str:
    log.seek(0)
    return log.read()[-_LAST_WORDS:].decode(errors="replace")


def _answers(process: "subprocess.Popen[bytes]", url: str) -> bool:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", trust_env=False, timeout=5).is_success:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_END_S)
