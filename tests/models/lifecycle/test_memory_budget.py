"""Real workers that share the memory: idle ones are unloaded for others, those in use are not."""

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from app.core.config import Settings
from app.core.errors import ModelCorrupt, ModelTooLarge
from app.engine.ipc.launcher import ForkServer
from app.models.chat_manager import ChatModelManager
from app.models.hub.client import Hub
from app.models.lifecycle.eviction_policy import EvictionPolicy
from app.models.model_manager import ModelManager
from app.models.schemas import ChatRequest, ChatResponse, LoadProgress
from tests.models.conftest import (
    OWNER,
    asyncio_timeout,
    chats_of,
    collect,
    leased,
    pid_of,
    profile,
    read,
    soon,
)

ENOUGH = 1_000_000_000
TOO_LITTLE = 300_000_000  # bytes; a worker of a tiny model takes more


class Machine:
    """A machine whose memory holds the loaded models and some free bytes beside them."""

    models: ModelManager

    def __init__(self) -> None:
        self.total = 0

    def available(self) -> int:
        return self.total - self.used()

    def used(self) -> int:
        return sum(state.loaded.backend.stats.memory_bytes for state in self.models.states() if state.loaded)

    def have_free(self, count: int) -> None:
        self.total = self.used() + count


@dataclass
class Loads:
    models: ModelManager
    machine: Machine
    chats: ChatModelManager

    async def load(self, name: str, free_bytes: int) -> None:
        self.machine.have_free(free_bytes)
        await collect(self.models.load(name))

    @property
    def loaded(self) -> list[str]:
        return [state.name for state in self.models.states() if state.loaded is not None]


async def third_model(loads: Loads) -> None:
    """It replaces the least recently used one, and never one in use."""
    with pytest.raises(ModelTooLarge, match="tiny-a needs about"):
        await loads.load("tiny-a", TOO_LITTLE)
    await loads.load("tiny-a", ENOUGH)
    await loads.load("tiny-b", ENOUGH)
    async with leased(loads.models, "tiny-a"):
        async with leased(loads.models, "tiny-b"):
            with pytest.raises(ModelTooLarge):
                await loads.load("tiny-c", TOO_LITTLE)
            assert loads.loaded == ["tiny-a", "tiny-b"]
        await loads.load("tiny-c", TOO_LITTLE)
        assert loads.loaded == ["tiny-a", "tiny-c"]


async def reply(loads: Loads, message: str, max_tokens: int) -> ChatResponse:
    request = ChatRequest(message=message, temperature=0, max_tokens=max_tokens)
    last = (await read(loads.chats.chat(OWNER, request, soon())))[-1]
    assert isinstance(last, ChatResponse)
    return last


async def replacement(loads: Loads) -> None:
    """A model is replaced while it is in use, because there is no room for both."""
    await loads.load("tiny-a", ENOUGH)
    alone = await reply(loads, "go on", 100)
    loads.machine.have_free(TOO_LITTLE)
    running, waiting = asyncio.create_task(reply(loads, "go on", 100)), None
    while not loads.models.open_requests()[0]:
        await asyncio.sleep(0)
    notes = set()
    async for event in loads.models.switch("tiny-b"):
        if isinstance(event, LoadProgress) and event.stage == "drain":
            waiting = waiting or asyncio.create_task(reply(loads, "hello", 4))
            notes.add(event.note)
    assert notes == {"not enough memory for both, so tiny-a is unloaded first"}
    assert (await running).response == alone.response
    assert waiting is not None and (await waiting).model_name == "tiny-b"
    assert loads.loaded == ["tiny-b"] and loads.models.note is None


async def failed_replacement(loads: Loads) -> None:
    await loads.load("tiny-a", ENOUGH)
    before = await reply(loads, "hello", 8)
    loads.machine.have_free(TOO_LITTLE)
    with pytest.raises(ModelCorrupt):
        await collect(loads.models.switch("damaged"))
    assert loads.models.current_name == "tiny-a"
    assert "tiny-a answers again" in (loads.models.note or "")
    assert (await reply(loads, "hello", 8)).response == before.response


async def hopeless_replacement(loads: Loads) -> None:
    """A model that would not fit even instead of the old one leaves the old one alone."""
    await loads.load("tiny-a", ENOUGH)
    pid = pid_of(loads.models.find("tiny-a").loaded)
    loads.models.find("tiny-b").measured_bytes = 2 * ENOUGH
    loads.machine.have_free(TOO_LITTLE)
    with pytest.raises(ModelTooLarge):
        await collect(loads.models.switch("tiny-b"))
    assert pid_of(loads.models.find("tiny-a").loaded) == pid


@pytest.fixture(scope="module")
def settings(settings: Settings) -> Iterator[Settings]:
    """Settings with a fork server for these tests alone: its other workers would share their memory."""
    with closing(ForkServer()) as fork_server:
        yield settings.model_copy(update={"fork_server": fork_server.path})


@pytest.mark.parametrize("story", [third_model, replacement, failed_replacement, hopeless_replacement])
def test_memory_is_shared(
    story: Callable[[Loads], Coroutine[Any, Any, None]],
    tiny_folders: dict[str, Path],
    settings: Settings,
    tmp_path: Path,
) -> None:
    damaged = shutil.copytree(tiny_folders["tiny-b"], tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"damaged")
    folders = tiny_folders | {"damaged": damaged}
    catalogue = {name: profile(name, folder) for name, folder in folders.items()}
    machine = Machine()
    policy = replace(EvictionPolicy.from_settings(settings), max_loaded=9, available=machine.available)
    with asyncio.Runner() as runner:
        machine.models = models = ModelManager(settings, catalogue, Hub(tmp_path), policy)
        chats, _ = chats_of(settings, models)
        try:
            runner.run(asyncio_timeout(story(Loads(models, machine, chats))))
        finally:
            runner.run(models.close())
