"""Faults at every stage of a switch: the old model answers as before."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from app.core.catalogue import Source
from app.core.config import Settings
from app.core.errors import DomainError
from app.models.chat.completion import TextGenerator
from app.models.chat.generation import ChatGenerator
from app.models.choices import ChoiceGenerator
from app.models.lifecycle.status import ServerStatus
from app.models.model_manager import ModelManager
from app.models.schemas import LoadProgress
from tests.hub.standin import Mishap, Refusal, StandInHub, running
from tests.models.conftest import World, asyncio_timeout, chats_of, pid_of, profile
from tests.models.hub.requests import hub_of, make_folder
from tests.waiting import until


@dataclass
class Scene:
    """A server on `tiny-a` that fetches `next` from the stand-in Hub."""

    world: World
    hub: StandInHub
    cache: Path
    files: dict[str, bytes]

    def reset(self) -> None:
        """Deletes `next` from the disk, and ends the fault."""
        for path in sorted(self.cache.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        self.hub.refusals.clear()
        self.hub.mishaps.clear()
        self.hub.repositories["owner/next"] = dict(self.files)

    async def switch(self, at: str | None = None, do: Callable[[], None] = lambda: None) -> bool:
        """Whether the switch completed. `do` is called once, at the stage `at`."""
        events: AsyncGenerator[Any, None] = self.world.models.switch("next")
        is_over, is_done = False, False
        with suppress(DomainError):
            async with aclosing(events):
                async for event in events:
                    is_over = not isinstance(event, LoadProgress)
                    if is_over or is_done or event.stage != at:
                        continue
                    if do is leave:
                        break
                    do()
                    is_done = True
        await until(lambda: self.world.models.find("next").status != "loading", "the load to end")
        return is_over


def leave() -> None:
    """Stands for a client that disconnects."""


@pytest.fixture(scope="module")
def scene(
    tiny_folders: dict[str, Path], settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    cache = tmp_path_factory.mktemp("cache")
    catalogue = {
        "tiny-a": profile("tiny-a", tiny_folders["tiny-a"]),
        "next": replace(profile("next", cache), sources=(Source("owner/next"),)),
    }
    files = {path.name: path.read_bytes() for path in tiny_folders["tiny-b"].iterdir()}
    with running(StandInHub()) as hub, asyncio.Runner() as runner:
        models = ModelManager(settings, catalogue, hub_of(hub, cache))
        generator = TextGenerator(ChoiceGenerator(settings, ChatGenerator(models)))
        world = World(runner, models, *chats_of(settings, models), generator, ServerStatus(models))
        world.collect(models.switch("tiny-a"))
        yield Scene(world, hub, cache, files)
        world.run(models.close())


def kill_newcomer(scene: Scene) -> None:
    loaded = scene.world.models.find("tiny-a").loaded
    assert loaded is not None
    for child in psutil.Process().children(recursive=True):
        if child.pid != pid_of(loaded) and child.name() == "llm-worker":
            os.kill(child.pid, signal.SIGKILL)


def refused(status: int, code: str = "") -> Callable[[Scene], Any]:
    def fault(scene: Scene) -> Any:
        scene.hub.refusals["owner/next"] = Refusal(status, code)
        return scene.switch()

    return fault


def mishap(kind: str) -> Callable[[Scene], Any]:
    def fault(scene: Scene) -> Any:
        scene.hub.mishaps["model.safetensors"] = Mishap(kind)
        return scene.switch()

    return fault


def broken(name: str, content: bytes) -> Callable[[Scene], Any]:
    def fault(scene: Scene) -> Any:
        scene.hub.repositories["owner/next"][name] = content
        return scene.switch()

    return fault


def killed_at(stage: str) -> Callable[[Scene], Any]:
    def fault(scene: Scene) -> Any:
        make_folder(scene.cache / "owner" / "next", scene.files)
        return scene.switch(stage, lambda: kill_newcomer(scene))

    return fault


def left_at(stage: str) -> Callable[[Scene], Any]:
    def fault(scene: Scene) -> Any:
        scene.hub.mishaps["model.safetensors"] = Mishap("trickle")
        return scene.switch(stage, leave)

    return fault


FAULTS: dict[str, Callable[[Scene], Any]] = {
    "resolve: gated": refused(403, "GatedRepo"),
    "resolve: not found": refused(404, "RepoNotFound"),
    "resolve: rate limit": refused(429),
    "resolve: server error": refused(500),
    "resolve: left": left_at("resolve"),
    "download: error": mishap("error"),
    "download: damaged": mishap("flip"),
    "download: endless": mishap("endless"),
    "download: left": left_at("download"),
    "import: killed": killed_at("import"),
    "load: damaged weights": broken("model.safetensors", b"damaged"),
    "load: killed": killed_at("load"),
    "check: left": left_at("check"),
    "pack: killed": killed_at("pack"),
    "warm up: killed": killed_at("warm up"),
}
FEW = (
    "resolve: rate limit",
    "resolve: left",
    "download: damaged",
    "download: left",
    "import: killed",
    "check: left",
)


@pytest.mark.parametrize(
    "faults", [FEW, pytest.param(tuple(FAULTS) * 20, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_faults_at_every_stage_leave_the_old_model_as_it_was(scene: Scene, faults: tuple[str, ...]) -> None:
    world = scene.world
    before = world.chat("hello").response
    pid = pid_of(world.models.find("tiny-a").loaded)
    for name in faults:
        scene.reset()
        if world.run(FAULTS[name](scene)):  # a tiny model's stage may end before the fault comes
            assert "killed" in name or "left" in name
            world.collect(world.models.switch("tiny-a"))
            world.run(world.models.unload("next"))
        assert world.models.current_name == "tiny-a", name
        assert world.chat("hello").response == before, name
    assert pid_of(world.models.find("tiny-a").loaded) == pid
    scene.reset()
    assert world.run(scene.switch())
    assert world.chat("hello").model_name == "next"


def test_first_load_that_found_no_hub_succeeds_unasked_when_the_hub_is_back(
    tiny_folders: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    chosen = settings.model_copy(update={"model_name": "next"})
    catalogue = {"next": replace(profile("next", tmp_path), sources=(Source("owner/next"),))}

    async def start_and_wait(hub: StandInHub) -> None:
        models = ModelManager(chosen, catalogue, hub_of(hub, tmp_path / "cache"))
        status = ServerStatus(models)
        try:
            await models.start()
            await until(lambda: status.health().status == "degraded", "the failure to be seen")
            health = status.health().model
            assert health is not None and health.error is not None
            assert health.error.startswith("The Hub answered 500") and "tried again" in health.error
            hub.refusals.clear()
            await until(status.is_ready, "the model to be loaded")
            assert status.health().status == "ok"
        finally:
            await models.close()

    with running(StandInHub()) as hub:
        hub.repositories["owner/next"] = {
            path.name: path.read_bytes() for path in tiny_folders["tiny-b"].iterdir()
        }
        hub.refusals["owner/next"] = Refusal(500, "")
        asyncio.run(asyncio_timeout(start_and_wait(hub)))
