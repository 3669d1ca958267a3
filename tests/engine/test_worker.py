"""A spawned worker process over its real socket."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import torch
import zmq
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
)

from app.engine.ipc.messages import (
    Cancel,
    ChatMessage,
    Deltas,
    Failed,
    Finished,
    Inbound,
    LoadFailed,
    Outbound,
    Progress,
    Ready,
    SamplingParams,
    Shutdown,
    Stats,
    Submit,
    WorkerSpec,
    decode_outbound,
    encode,
)
from tests.engine.own_cache.models import cpm_ant
from tests.engine.tiny import configs, new_model

START_TIMEOUT_S = 90  # to import torch on a busy machine
ANSWER_TIMEOUT_S = 60


class Worker:
    """The parent's end of one worker process."""

    def __init__(self, folder: Path, model: Path) -> None:
        address = f"ipc://{folder}/socket"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.bind(address)
        command = [sys.executable, "-m", "app.engine.worker", address]
        self.life_line, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(command, stdin=theirs.fileno())
        self.life_line.sendall(msgspec.json.encode(WorkerSpec(str(model), "tiny", threads=1)) + b"\n")

    def send(self, message: Inbound) -> None:
        self._socket.send(encode(message))

    def receive(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Outbound:
        assert self._socket.poll(int(timeout_s * 1000)), "the worker is silent"
        received = self._socket.recv()
        assert isinstance(received, bytes)
        message: Outbound = decode_outbound(received)
        return message

    def until(self, *kinds: type) -> list[Outbound]:
        """Returns all messages up to the first of one of the kinds."""
        messages = [self.receive(START_TIMEOUT_S)]
        while not isinstance(messages[-1], kinds):
            messages.append(self.receive(START_TIMEOUT_S))
        return messages

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self.life_line.close()
        self._socket.close()
        self._context.term()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configs(len(tokenizer))["llama"])  # type: ignore[no-untyped-call]
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Worker]]:
    workers: list[Worker] = []

    def begin(model: Path) -> Worker:
        workers.append(Worker(tmp_path, model))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.close()


def chat(request_id: str, max_tokens: int | None) -> Submit:
    sampling = SamplingParams(max_tokens=max_tokens, seed=1)
    return Submit(request_id, sampling, messages=(ChatMessage("user", "the cat"),))


def text_of(messages: list[Outbound], request_id: str) -> str:
    items = [delta for message in messages if isinstance(message, Deltas) for delta in message.items]
    return "".join(delta.text for delta in items if delta.request_id == request_id)


def test_worker_serves_cancels_and_shuts_down(start: Callable[[Path], Worker], model_folder: Path) -> None:
    worker = start(model_folder)
    loading = worker.until(Ready, LoadFailed)
    assert isinstance(loading[-1], Ready)
    stages = list(dict.fromkeys(message.stage for message in loading if isinstance(message, Progress)))
    assert stages == ["import", "load", "check", "pack", "warm up"]

    worker.process.send_signal(signal.SIGINT)  # Ctrl-C reaches it, too, but only the server acts on it
    worker.send(chat("short", 8))
    reply = worker.until(Finished, Failed)
    assert isinstance(reply[-1], Finished)
    assert text_of(reply, "short")

    worker.send(Submit("long", SamplingParams(), prompt="the cat"))
    worker.until(Deltas)
    worker.send(Cancel("long"))
    ended = worker.until(Finished, Failed)[-1]
    assert isinstance(ended, Finished)
    assert ended.finish_reason in ("cancelled", "length")

    worker.until(Stats)
    worker.until(Stats)  # they come while it is idle, too
    worker.send(Shutdown())
    assert worker.process.wait(ANSWER_TIMEOUT_S) == 0


def test_worker_ends_with_its_life_line(start: Callable[[Path], Worker], model_folder: Path) -> None:
    worker = start(model_folder)
    worker.until(Ready)
    worker.send(Submit("long", SamplingParams(), prompt="the cat"))
    worker.until(Deltas)
    worker.life_line.close()
    assert worker.process.wait(ANSWER_TIMEOUT_S) == 0


def test_worker_refuses_an_architecture_that_cannot_be_served(
    start: Callable[[Path], Worker], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    new_model(cpm_ant(len(tokenizer))).save_pretrained(tmp_path / "cpm-ant")
    tokenizer.save_pretrained(tmp_path / "cpm-ant")
    worker = start(tmp_path / "cpm-ant")
    failure = worker.until(Ready, LoadFailed)[-1]
    assert isinstance(failure, LoadFailed)
    assert failure.code == "model_unsupported"
    assert "CpmAntForCausalLM" in failure.message
    assert worker.process.wait(ANSWER_TIMEOUT_S) == 1
