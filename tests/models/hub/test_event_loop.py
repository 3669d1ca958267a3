"""No look at a disk stands on the event loop, whatever a request does with models."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.catalogue import Source
from app.core.config import Settings
from app.core.errors import ModelUnavailable
from app.models.hub.client import Hub
from app.models.hub.threads import in_thread
from app.models.lifecycle.status import ServerStatus
from app.models.model_manager import ModelManager
from tests.hub.standin import StandInHub, running
from tests.models.conftest import asyncio_timeout, collect, profile
from tests.models.hub.requests import HASTY, TINY, make_folder
from tests.models.hub.watched_path import WatchedPath, used_on_loop
from tests.models.stand_in_engines import StandInEngines


def models_of(cache: Path, url: str) -> ModelManager:
    """Models in the cache, in a folder, on the Hub, and nowhere. The backends are stand-ins."""
    engines = StandInEngines()
    engines.may_start.set()
    engines.may_end.set()
    catalogue = {
        name: replace(profile(name, cache), sources=(Source(f"owner/{name}", takes_pickle=name == "pickle"),))
        for name in ("cached", "remote", "pickle", "missing")
    }
    settings = Settings(model_name="cached", _env_file=None)
    return ModelManager(settings, catalogue, Hub(cache, endpoint=url, timeouts=HASTY), engines=engines)


@asynccontextmanager
async def watched(cache: Path, hub: StandInHub) -> AsyncIterator[ModelManager]:
    """The models of a server. Fails if anything in the block used the disk on the event loop."""
    models = models_of(cache, hub.url)
    used_on_loop.clear()
    try:
        await models.start()
        yield models
    finally:
        await models.close()
    assert used_on_loop == []


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    make_folder(tmp_path / "cache" / "owner" / "cached")
    return WatchedPath(tmp_path / "cache")


def test_watched_path_notices_a_use_on_the_loop(tmp_path: Path) -> None:
    async def use() -> None:
        (WatchedPath(tmp_path) / "a" / "b").exists()
        await in_thread((WatchedPath(tmp_path) / "c").exists)

    used_on_loop.clear()
    asyncio.run(use())
    assert used_on_loop == ["stat b"]


def test_loads_switches_and_lists_look_at_the_disk_in_threads(cache: Path) -> None:
    async def use(hub: StandInHub) -> None:
        async with watched(cache, hub) as models:
            for name in ("cached", "remote", "pickle"):
                await collect(models.switch(name))
            with pytest.raises(ModelUnavailable):
                await collect(models.load("missing"))
            await ServerStatus(models).list_models()
            await models.unload("remote")
            await collect(models.load("remote"))

    with running(StandInHub()) as hub:
        hub.repositories["owner/remote"] = TINY
        weights = {"pytorch_model.bin": TINY["model.safetensors"]}
        hub.repositories["owner/pickle"] = {**TINY, **weights}
        del hub.repositories["owner/pickle"]["model.safetensors"]
        asyncio.run(asyncio_timeout(use(hub)))


FETCH = """
import asyncio, sys, threading
from pathlib import Path
from app.core.catalogue import CATALOGUE, Source
from app.models.hub.client import Hub
from dataclasses import replace

async def fetch():
    loop = threading.get_ident()
    def note(event, arguments):
        if event == "import" and threading.get_ident() == loop and is_watching:
            print(arguments[0])
    is_watching = True
    sys.addaudithook(note)
    profile = replace(CATALOGUE["gpt2"], sources=(Source("owner/remote"),))
    await Hub(Path(sys.argv[1]), endpoint=sys.argv[2]).fetch(profile, lambda *stage: None)
    is_watching = False

asyncio.run(fetch())
"""


def test_first_download_imports_its_client_in_a_thread(tmp_path: Path) -> None:
    with running(StandInHub()) as hub:
        hub.repositories["owner/remote"] = TINY
        command = [sys.executable, "-c", FETCH, str(tmp_path), hub.url]
        imported = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert {name.split(".")[0] for name in imported.split()}.isdisjoint({"huggingface_hub", "httpx", "app"})


def test_damaged_file_is_deleted_in_a_thread(cache: Path) -> None:
    async def use(hub: StandInHub) -> None:
        async with watched(cache, hub) as models:
            await collect(models.load("remote"))
            await models.unload("remote")
            blobs = cache / "models--owner--remote" / "blobs"
            await in_thread(lambda: [blob.write_bytes(b"damaged") for blob in blobs.iterdir()])
            del hub.repositories["owner/remote"]
            with pytest.raises(ModelUnavailable):
                await collect(models.load("remote"))

    with running(StandInHub()) as hub:
        hub.repositories["owner/remote"] = TINY
        asyncio.run(asyncio_timeout(use(hub)))
