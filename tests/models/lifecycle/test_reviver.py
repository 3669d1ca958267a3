"""The current model is loaded again after a failure, with growing delays. The backends are stand-ins."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from app.core.config import Settings
from app.core.errors import (
    DomainError,
    HubUnreachable,
    ModelCorrupt,
    ModelGated,
    ModelLoadFailed,
    ModelOffline,
    ModelTooLarge,
    RateLimited,
    WorkerDied,
)
from app.models.hub.client import Hub
from app.models.lifecycle.background import BackgroundTasks
from app.models.lifecycle.eviction_policy import EvictionPolicy
from app.models.lifecycle.evictor import Evictor
from app.models.lifecycle.loader import ModelLoader
from app.models.lifecycle.registry import ModelRegistry
from app.models.lifecycle.reviver import Reviver
from tests.models.conftest import asyncio_timeout, profile
from tests.models.hub.requests import make_folder
from tests.models.stand_in_engines import StandInEngines
from tests.waiting import until


class Scene:
    """One model that is loaded, on a clock that a test sets."""

    def __init__(self, tmp_path: Path) -> None:
        settings = Settings(_env_file=None)
        self.folder = make_folder(tmp_path / "a")
        self.now = 1000.0
        self.engines = StandInEngines()
        self.engines.may_start.set()
        self.engines.may_end.set()
        registry = ModelRegistry({"a": profile("a", self.folder)}, allows_any=False)
        policy, background = EvictionPolicy.from_settings(settings), BackgroundTasks()
        self.evictor = Evictor(registry, policy, 1.0)
        hub = Hub(tmp_path / "cache")
        self.loader = ModelLoader(settings, hub, registry, policy, self.evictor, self.engines, background)
        self.state = registry.current = registry.find("a")
        self.reviver = Reviver(registry, self.loader, lambda: self.now)

    async def fail(self) -> None:
        """The worker ends; what the reviver begins then is over when this returns."""
        if self.state.loaded is not None:
            self.engines.backends[-1].failure = "ended (signal 9)"
        await self.check_at(self.now)

    async def fail_to_load(self, *errors: DomainError) -> None:
        """The first load ends with the first error, later ones with the others."""
        self.engines.failures.extend(errors)
        with suppress(DomainError):
            await self.loader.load(self.state).result()

    async def check_at(self, now: float) -> None:
        self.now = now
        self.reviver.check()
        await until(lambda: self.state.progress is None, "the load to end")


def run(tmp_path: Path, play: Callable[[Scene], Awaitable[None]], *, is_loaded: bool = True) -> None:
    async def play_and_close() -> None:
        scene = Scene(tmp_path)
        if is_loaded:
            await scene.loader.load(scene.state).result()
        try:
            await play(scene)
        finally:
            await scene.loader.close()
            await scene.evictor.close()

    asyncio.run(asyncio_timeout(play_and_close()))


def test_first_failure_is_mended_at_once(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        scene.reviver.check()
        assert len(scene.engines.started) == 1
        await scene.fail()
        assert len(scene.engines.started) == 2
        assert scene.state.is_serving and not scene.state.is_recovering

    run(tmp_path, play)


def test_later_failures_are_mended_after_growing_delays(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.fail()
        for starts, delay_s in enumerate((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0), start=2):
            begun = scene.now
            await scene.fail()
            await scene.check_at(begun + delay_s - 0.01)
            assert len(scene.engines.started) == starts
            assert scene.state.is_recovering
            await scene.check_at(begun + delay_s)
            assert len(scene.engines.started) == starts + 1
        await scene.check_at(scene.now + 300)
        await scene.fail()
        assert scene.state.is_serving  # the delays are forgotten

    run(tmp_path, play)


def test_start_that_fails_is_tried_again(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        config = scene.folder / "config.json"
        config.rename(config.with_name("aside"))
        await scene.fail()
        assert scene.state.error is not None
        config.with_name("aside").rename(config)
        await scene.check_at(scene.now + 1)
        assert scene.state.is_serving and scene.state.error is None

    run(tmp_path, play)


def test_model_that_was_unloaded_or_never_loaded_is_left_alone(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.loader.unload(scene.state)
        await scene.check_at(scene.now + 100)
        scene.state.error = ModelLoadFailed("It broke.")
        await scene.check_at(scene.now + 100)
        assert len(scene.engines.started) == 1

    run(tmp_path, play)


def test_model_that_is_unloaded_while_it_waits_for_its_start_is_left_alone(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.fail()
        await scene.fail()
        assert scene.state.is_recovering
        await scene.loader.unload(scene.state)
        await scene.check_at(scene.now + 100)
        assert len(scene.engines.started) == 2

    run(tmp_path, play)


@pytest.mark.parametrize("kind", [HubUnreachable, ModelOffline, RateLimited, ModelTooLarge, WorkerDied])
def test_first_load_that_failed_for_a_passing_reason_is_repeated(
    tmp_path: Path, kind: type[DomainError]
) -> None:
    async def play(scene: Scene) -> None:
        await scene.fail_to_load(*(kind("Not now.", retry_after=1) for _ in range(3)))
        begun = scene.now
        for starts, due_at in enumerate((begun, begun + 1, begun + 3, begun + 7), start=1):
            await scene.check_at(due_at)
            assert len(scene.engines.started) == starts
            await scene.check_at(due_at + 0.9)
            assert len(scene.engines.started) == starts
        assert scene.state.is_serving and not scene.state.is_recovering

    run(tmp_path, play, is_loaded=False)


def test_repeated_load_waits_as_long_as_the_error_asks(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.fail_to_load(RateLimited("Too many requests.", retry_after=600))
        begun = scene.now
        await scene.check_at(begun)
        assert scene.state.is_recovering
        await scene.check_at(begun + 599)
        assert len(scene.engines.started) == 1
        await scene.check_at(begun + 600)
        assert scene.state.is_serving

    run(tmp_path, play, is_loaded=False)


@pytest.mark.parametrize("kind", [ModelGated, ModelCorrupt, ModelLoadFailed])
def test_first_load_that_needs_a_person_is_not_repeated(tmp_path: Path, kind: type[DomainError]) -> None:
    async def play(scene: Scene) -> None:
        await scene.fail_to_load(kind("Not so."))
        await scene.check_at(scene.now)
        await scene.check_at(scene.now + 1000)
        assert len(scene.engines.started) == 1 and not scene.state.is_recovering

    run(tmp_path, play, is_loaded=False)
