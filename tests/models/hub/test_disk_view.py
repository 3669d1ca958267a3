"""The list of models answers also while a disk hangs."""

import asyncio
import threading
from pathlib import Path

import pytest

from app.core.catalogue import ModelProfile, Source
from app.core.config import DEFAULT_MODEL, Settings
from app.core.errors import ModelLoadFailed
from app.models.hub.client import Hub, Weights
from app.models.hub.disk_view import DiskView
from app.models.hub.threads import NetworkTimeouts
from app.models.lifecycle.status import ServerStatus
from app.models.model_manager import ModelManager
from tests.models.conftest import asyncio_timeout, leased, profile
from tests.models.hub.requests import make_folder
from tests.models.stand_in_engines import StandInEngines

HASTY = NetworkTimeouts(disk_s=0.05)


class HangingHub(Hub):
    """Its disk does not answer while `answers` is clear."""

    def __init__(self, cache: Path) -> None:
        super().__init__(cache, timeouts=HASTY)
        self.answers = threading.Event()
        self.answers.set()
        self.looks = 0

    def find(self, profile: ModelProfile) -> Weights | None:
        self.looks += 1
        self.answers.wait(60)
        return super().find(profile)


def test_view_answers_with_what_it_has_seen_while_the_disk_hangs(tmp_path: Path) -> None:
    async def look() -> None:
        folder = make_folder(tmp_path / "a")
        hub, wanted = HangingHub(tmp_path), [profile("a", folder), profile("b", tmp_path / "b")]
        view = DiskView(hub, limit_s=0.05)
        seen = await view.look(wanted)
        assert {name: weights.path for name, weights in seen.items()} == {"a": folder}
        hub.answers.clear()
        looks = hub.looks
        for _ in range(5):
            assert await view.look(wanted) == seen
        assert hub.looks == looks + 1  # one thread waits, not one for each question
        hub.answers.set()
        (folder / "config.json").unlink()
        while await view.look(wanted):
            pass
        await view.close()

    asyncio.run(asyncio_timeout(look()))


def test_hub_gives_up_a_disk_that_does_not_answer(tmp_path: Path) -> None:
    hub, wanted = HangingHub(tmp_path), profile("a", tmp_path / "a")
    hub.answers.clear()
    for look in (hub.on_disk, hub.has_first_source):
        with pytest.raises(ModelLoadFailed, match="does not answer"):
            asyncio.run(asyncio_timeout(look(wanted)))
    hub.answers.set()


def test_server_starts_and_lists_its_models_while_a_disk_hangs(tmp_path: Path) -> None:
    async def start() -> None:
        engines = StandInEngines()
        engines.may_start.set()
        engines.may_end.set()
        hub, folder = HangingHub(tmp_path), make_folder(tmp_path / "a")
        catalogue = {name: profile(name, folder) for name in (DEFAULT_MODEL, "builtin")}
        models = ModelManager(Settings(_env_file=None), catalogue, hub, engines=engines)
        hub.answers.clear()
        try:
            await models.start()
            listed = await ServerStatus(models).list_models()
            assert [model.name for model in listed.models] == [DEFAULT_MODEL, "builtin"]
        finally:
            hub.answers.set()
            await models.close()

    asyncio.run(asyncio_timeout(start()))


def test_list_shows_the_size_of_what_is_on_the_disk(tmp_path: Path) -> None:
    async def sizes() -> list[int | None]:
        folder = make_folder(tmp_path / "a")
        described = ModelProfile("a", "A", "", (Source(str(folder)),), 16, None, None)
        missing = ModelProfile("b", "B", "", (Source(str(tmp_path / "b")),), 16, 7, None)
        models = ModelManager(
            Settings(_env_file=None).model_copy(update={"model_name": "none"}),
            {"a": described, "b": missing},
            Hub(tmp_path),
            engines=StandInEngines(),
        )
        listed = await ServerStatus(models).list_models()
        await models.close()
        return [model.size_bytes for model in listed.models]

    weights = tmp_path / "a" / "model.safetensors"
    assert asyncio.run(asyncio_timeout(sizes())) == [weights.stat().st_size, 7]


def test_names_that_failed_leave_the_list(tmp_path: Path) -> None:
    async def mistype() -> None:
        settings = Settings(_env_file=None).model_copy(update={"model_name": "none", "allow_any_model": True})
        models = ModelManager(settings, {}, Hub(tmp_path), engines=StandInEngines())
        for number in range(12):
            with pytest.raises(Exception, match="missing or incomplete"):
                async with leased(models, str(tmp_path / f"typo-{number}")):
                    pass
        assert (await ServerStatus(models).list_models()).models == []
        await models.close()

    asyncio.run(asyncio_timeout(mistype()))
