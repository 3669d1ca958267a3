"""Real workers in a budget: the least recently used leaves for a third, one in use never does."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.core.config import Settings
from app.core.errors import ModelTooLarge
from app.models.hub import Hub
from app.models.model_manager import ModelManager
from app.models.residency import Residency
from tests.models.conftest import asyncio_timeout, collect, profile

ENOUGH = 1_000_000_000
TOO_LITTLE = 300_000_000  # bytes; a worker of a tiny model takes more


class Machine:
    """Has bytes free besides what the models take; what one of them takes comes back when it leaves."""

    models: ModelManager

    def __init__(self) -> None:
        self.total = 0

    def available(self) -> int:
        return self.total - self.used()

    def used(self) -> int:
        return sum(entry.loaded.client.memory_bytes for entry in self.models.entries() if entry.loaded)

    def have_free(self, count: int) -> None:
        self.total = self.used() + count


@dataclass
class Loads:
    models: ModelManager
    machine: Machine

    async def load(self, name: str, free_bytes: int) -> None:
        self.machine.have_free(free_bytes)
        await collect(self.models.load(name))

    @property
    def loaded(self) -> list[str]:
        return [entry.profile.name for entry in self.models.entries() if entry.loaded is not None]


async def third_model(loads: Loads) -> None:
    with pytest.raises(ModelTooLarge, match="tiny-a needs about"):
        await loads.load("tiny-a", TOO_LITTLE)
    await loads.load("tiny-a", ENOUGH)
    await loads.load("tiny-b", ENOUGH)
    async with loads.models.lease("tiny-a"):
        async with loads.models.lease("tiny-b"):
            with pytest.raises(ModelTooLarge):
                await loads.load("tiny-c", TOO_LITTLE)
            assert loads.loaded == ["tiny-a", "tiny-b"]
        await loads.load("tiny-c", TOO_LITTLE)
        assert loads.loaded == ["tiny-a", "tiny-c"]


def test_a_third_model_takes_the_place_of_the_least_recently_used_and_of_none_in_use(
    tiny_folders: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    catalogue = {name: profile(name, folder) for name, folder in tiny_folders.items()}
    machine = Machine()
    residency = replace(Residency.of(settings), max_loaded=9, available=machine.available)
    with asyncio.Runner() as runner:
        machine.models = models = ModelManager(settings, catalogue, Hub(tmp_path), residency)
        try:
            runner.run(asyncio_timeout(third_model(Loads(models, machine))))
        finally:
            runner.run(models.close())
