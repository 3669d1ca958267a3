"""Real services on tiny models: worker processes and all, without HTTP."""

import asyncio
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.core.catalogue import ModelProfile, SamplingDefaults, Source
from app.core.config import Settings
from app.core.deadline import Deadline
from app.engine.ipc.client import WorkerClient
from app.models.chat.completion import TextGenerator
from app.models.chat.conversations import ConversationManager
from app.models.chat.generation import ChatGenerator
from app.models.chat_manager import ChatModelManager
from app.models.choices import ChoiceGenerator
from app.models.hub.client import Hub
from app.models.lifecycle.served_model import ServedModel
from app.models.lifecycle.status import ServerStatus
from app.models.model_manager import ModelManager
from app.models.schemas import ChatRequest, ChatResponse
from app.models.storage.key_records import MemoryKeyRecords
from app.models.storage.memory_store import MemoryStore
from app.models.storage.turn_locks import LocalTurnLocks
from app.models.turns.turn_log import EventReader, TurnEvent
from app.models.turns.turn_registry import TurnRegistry
from tests.engine.tiny import WINDOW, configs, make_tokenizer


def pid_of(model: ServedModel | None) -> int:
    """The process id of the worker that serves the model."""
    assert model is not None and isinstance(model.backend, WorkerClient)
    return model.backend.pid


T = TypeVar("T")
OWNER = "tests"
TINY = ("tiny-a", "tiny-b", "tiny-c")


@dataclass(frozen=True)
class World:
    """All services, and the loop they live in."""

    runner: asyncio.Runner
    models: ModelManager
    chats: ChatModelManager
    conversations: ConversationManager
    generator: TextGenerator
    status: ServerStatus

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asyncio_timeout(work))

    def unload(self, *names: str) -> None:
        for name in names:
            self.run(self.models.unload(name))

    def load(self, *names: str) -> None:
        for name in names:
            self.collect(self.models.load(name))

    def collect(self, events: AsyncGenerator[T, None]) -> list[T]:
        return self.run(collect(events))

    def last(self, events: AsyncGenerator[Any, None]) -> Any:
        return self.collect(events)[-1]

    def chat(self, message: str, conversation_id: str | None = None, **fields: Any) -> ChatResponse:
        """A greedy turn of a few tokens."""
        given = {"temperature": 0, "max_tokens": 8} | fields
        request = ChatRequest(message=message, conversation_id=conversation_id, **given)
        return self.reply(self.chats.chat(OWNER, request, soon()))

    def turn(self, reader: Awaitable[EventReader]) -> list[TurnEvent]:
        """All events of a turn."""
        return self.run(read(reader))

    def reply(self, reader: Awaitable[EventReader]) -> ChatResponse:
        """The last event of a turn."""
        response = self.turn(reader)[-1]
        assert isinstance(response, ChatResponse)
        return response


async def asyncio_timeout(work: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(90):
        return await work


@asynccontextmanager
async def leased(models: ModelManager, name: str | None, timeout_s: float = 60) -> AsyncIterator[ServedModel]:
    """The model, which stays loaded while this is open."""
    async with aclosing(models.lease(name, Deadline.after(timeout_s))) as lease:
        async for event in lease:
            if isinstance(event, ServedModel):
                yield event


def soon() -> Deadline:
    """A deadline that no test reaches."""
    return Deadline.after(60)


async def collect(events: AsyncGenerator[T, None]) -> list[T]:
    return [event async for event in events]


@asynccontextmanager
async def events_of(reader: Awaitable[EventReader]) -> AsyncIterator[AsyncIterator[TurnEvent]]:
    """The events of a turn, whose reader is closed at the end."""
    async with aclosing(await reader) as records:
        yield (record.event async for record in records)


async def read(reader: Awaitable[EventReader]) -> list[TurnEvent]:
    """All events of a turn."""
    async with events_of(reader) as events:
        return [event async for event in events]


def profile(name: str, folder: Path) -> ModelProfile:
    sampling = SamplingDefaults(max_tokens=16, temperature=0.7)
    return ModelProfile(name, name.title(), "tiny", (Source(str(folder)),), WINDOW, 1, 1, sampling)


def chats_of(settings: Settings, models: ModelManager) -> tuple[ChatModelManager, ConversationManager]:
    """Conversations in memory, answered by `models`."""
    locks = LocalTurnLocks()
    store = MemoryStore(max_conversations=100, ttl_s=600, held=locks.held)
    turns, keys = TurnRegistry(), MemoryKeyRecords()
    chats = ChatModelManager(settings, store, locks, ChatGenerator(models), turns, keys)
    return chats, ConversationManager(settings, store, locks, models)


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each tiny model, as a person would have downloaded it."""
    tokenizer = make_tokenizer()
    folders: dict[str, Path] = {}
    for name, architecture in zip(TINY, ("llama", "gpt2", "qwen3"), strict=True):
        torch.manual_seed(len(folders))
        folders[name] = tmp_path_factory.mktemp(name)
        model = AutoModelForCausalLM.from_config(configs(len(tokenizer))[architecture])  # type: ignore[no-untyped-call]
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="session")
def settings(shared_fork_server: Path) -> Settings:
    return Settings(
        model_name="tiny-a",
        dtype="float32",
        threads=1,
        max_active_requests=4,
        max_queued_requests=2,
        max_conversation_length=3,
        max_conversation_bytes=2_000,
        request_timeout=60,
        fork_server=shared_fork_server,
        _env_file=None,
    )


@pytest.fixture
def world(shared_world: World) -> World:
    """The services of one server, on tiny-a. What else is loaded depends on the tests before."""
    shared_world.collect(shared_world.models.switch("tiny-a"))
    return shared_world


@pytest.fixture(scope="session")
def shared_world(
    settings: Settings, tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The services that all tests of the service layer share, because starting workers takes long."""
    catalogue = {name: profile(name, folder) for name, folder in tiny_folders.items()}
    catalogue["broken"] = profile("broken", tmp_path_factory.mktemp("broken"))
    with asyncio.Runner() as runner:
        models = ModelManager(settings, catalogue, Hub(tmp_path_factory.mktemp("cache")))
        text_generator = TextGenerator(ChoiceGenerator(settings, ChatGenerator(models)))
        made = World(runner, models, *chats_of(settings, models), text_generator, ServerStatus(models))
        yield made
        made.run(models.close())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte. A test may remount it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
