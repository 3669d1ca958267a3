"""Loads, leases and unloads that meet in the same moment. The backends are stand-ins."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, ModelBusy, ModelTooLarge, ModelUnavailable, ShuttingDown
from app.models.hub.client import Hub
from app.models.lifecycle.eviction_policy import EvictionPolicy
from app.models.model_manager import ModelManager
from app.models.schemas import LoadProgress
from tests.models.conftest import asyncio_timeout, collect, leased, profile
from tests.models.hub.requests import make_folder
from tests.models.stand_in_engines import StandInEngines
from tests.waiting import until

NAMES = ("a", "b", "c", "d")
MOMENTS = range(25)  # turns of the event loop that a request comes later than what it meets


@asynccontextmanager
async def manager(tmp_path: Path, engines: StandInEngines, **policy: Any) -> AsyncIterator[ModelManager]:
    """A manager of four models; its starts and ends are released at the end."""
    settings = Settings(model_name="a", max_loaded_models=2, request_timeout=30, _env_file=None)
    folders = {name: tmp_path / name for name in NAMES}
    for folder in folders.values():
        if not folder.exists():
            make_folder(folder)
    catalogue = {name: profile(name, folder) for name, folder in folders.items()}
    rules = replace(EvictionPolicy.from_settings(settings), **policy)
    models = ModelManager(settings, catalogue, Hub(tmp_path / "cache"), rules, engines)
    try:
        yield models
    finally:
        engines.may_end.set()
        await models.close()


def open_engines() -> StandInEngines:
    engines = StandInEngines()
    engines.may_start.set()
    engines.may_end.set()
    return engines


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def leave_after_first(events: AsyncGenerator[Any, None]) -> None:
    async with aclosing(events):
        await anext(events)


def run(work: Any) -> None:
    asyncio.run(asyncio_timeout(work))


async def use(models: ModelManager, name: str) -> None:
    """A short request, whose backend must serve until its end."""
    async with leased(models, name) as model:
        for _ in range(40):
            assert model.backend.failure is None and model.backend.is_alive
            await asyncio.sleep(0)


def test_request_that_arrives_while_a_load_ends_shares_it(tmp_path: Path) -> None:
    async def arrive(moment: int, is_before: bool) -> None:
        engines = StandInEngines()
        engines.may_end.set()
        async with manager(tmp_path, engines) as models:
            first = asyncio.create_task(use(models, "a"))
            await until(lambda: engines.started)
            if is_before:
                second = asyncio.create_task(use(models, "a"))
                await turns(moment)
                engines.may_start.set()
            else:
                engines.may_start.set()
                await turns(moment)
                second = asyncio.create_task(use(models, "a"))
            await asyncio.gather(first, second)
            assert engines.started == ["a"]

    for moment in MOMENTS:
        for is_before in (True, False):
            run(arrive(moment, is_before))


def test_request_that_arrives_during_an_unload_gets_another_worker(tmp_path: Path) -> None:
    async def arrive(moment: int) -> None:
        async with manager(tmp_path, open_engines()) as models:
            await collect(models.load("a"))
            unload = asyncio.create_task(models.unload("a"))
            await turns(moment)
            await asyncio.gather(use(models, "a"), unload, return_exceptions=False)

    for moment in MOMENTS:
        run(arrive(moment))


def test_request_that_arrives_during_an_eviction_gets_another_worker(tmp_path: Path) -> None:
    async def arrive(moment: int) -> None:
        async with manager(tmp_path, open_engines(), max_loaded=1) as models:
            await collect(models.load("b"))
            eviction = asyncio.create_task(collect(models.load("c")))
            await turns(moment)
            await asyncio.gather(use(models, "b"), eviction)

    for moment in MOMENTS:
        run(arrive(moment))


def test_request_that_arrives_at_the_idle_timeout_keeps_its_worker(tmp_path: Path) -> None:
    async def arrive() -> None:
        engines, clock = open_engines(), count()  # every model is idle for longer than the timeout
        async with manager(tmp_path, engines, idle_timeout_s=0.001, clock=lambda: next(clock)) as models:
            await models.start()
            while len(engines.backends) < 5:
                await use(models, "a")
                await turns(3)

    run(arrive())


def test_unload_is_refused_while_a_request_waits(tmp_path: Path) -> None:
    async def unload() -> None:
        engines = StandInEngines()
        async with manager(tmp_path, engines) as models:
            waiting = asyncio.create_task(use(models, "a"))
            await until(lambda: engines.started)
            with pytest.raises(ModelBusy):
                await models.unload("a")
            engines.may_start.set()
            await waiting

    run(unload())


def test_lease_ends_at_its_deadline_and_the_load_goes_on(tmp_path: Path) -> None:
    async def wait() -> None:
        engines = StandInEngines()
        async with manager(tmp_path, engines) as models:
            seen: list[object] = []
            with pytest.raises(DeadlineExceeded, match="not loaded in time"):
                async for event in models.lease("a", Deadline.after(0.1)):
                    seen.append(event)
            assert [event.stage for event in seen if isinstance(event, LoadProgress)] == ["load"]
            engines.may_start.set()
            await use(models, "a")
            assert engines.started == ["a"]

    run(wait())


def test_next_load_waits_for_the_end_of_a_cancelled_one(tmp_path: Path) -> None:
    async def leave_and_return() -> None:
        engines = StandInEngines()
        async with manager(tmp_path, engines) as models:
            await leave_after_first(models.load("a"))
            await until(lambda: models.find("a").progress is not None)
            abandoned = asyncio.create_task(collect(models.load("a")))
            await until(lambda: engines.started)
            abandoned.cancel()
            await asyncio.gather(abandoned, return_exceptions=True)
            task = asyncio.create_task(collect(models.load("a")))
            await turns(50)
            assert (engines.started, engines.cancelled) == (["a"], [])
            engines.may_end.set()
            await until(lambda: len(engines.started) == 2)
            assert engines.cancelled == ["a"]
            engines.may_start.set()
            await task

    run(leave_and_return())


def test_end_of_a_cancelled_load_is_not_interrupted(tmp_path: Path) -> None:
    """Neither by an unload nor by the server's end, or its worker might live on."""

    async def interrupt() -> None:
        engines = StandInEngines()
        async with manager(tmp_path, engines) as models:
            load = asyncio.create_task(collect(models.load("a")))
            await until(lambda: engines.started)
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            ends = [asyncio.create_task(models.unload("a")), asyncio.create_task(models.close())]
            await turns(50)
            engines.may_end.set()
            await asyncio.gather(*ends)
            assert engines.cancelled == ["a"]

    run(interrupt())


def test_load_waits_for_memory_that_is_about_to_become_free(tmp_path: Path) -> None:
    async def load() -> None:
        engines = StandInEngines(memory_bytes=10**9)
        engines.may_start.set()
        available = 10**9
        async with manager(tmp_path, engines, available=lambda: available - engines.used_bytes) as models:
            await collect(models.load("b"))
            unload = asyncio.create_task(models.unload("b"))
            await until(lambda: not engines.backends[0].is_alive)
            task = asyncio.create_task(collect(models.load("c")))
            for _ in range(20):  # long enough for the one thread that the hub needs
                await asyncio.to_thread(lambda: None)
            assert engines.started == ["b"] and not task.done()
            engines.may_end.set()
            await asyncio.gather(unload, task)
            assert engines.started == ["b", "c"]

    run(load())


def test_model_for_which_no_unloading_makes_room_unloads_none(tmp_path: Path) -> None:
    async def load() -> None:
        engines = open_engines()
        async with manager(tmp_path, engines, limit_bytes=600_000_000) as models:
            await collect(models.load("b"))
            await collect(models.load("c"))
            with (tmp_path / "d" / "model.safetensors").open("ab") as weights:
                weights.truncate(600_000_000)
            with pytest.raises(ModelTooLarge, match=r"d needs about 1.00 GB of memory; at most 0.60 GB"):
                await collect(models.load("d"))
            assert [state.name for state in models.states() if state.loaded] == ["b", "c"]

    run(load())


def test_unload_ends_the_worker_even_if_its_request_leaves(tmp_path: Path) -> None:
    async def give_up() -> None:
        engines = StandInEngines()
        engines.may_start.set()
        async with manager(tmp_path, engines) as models:
            await collect(models.load("b"))
            unload = asyncio.create_task(models.unload("b"))
            await until(lambda: not engines.backends[0].is_alive)
            unload.cancel()
            await asyncio.gather(unload, return_exceptions=True)
            assert not engines.backends[0].has_ended
            engines.may_end.set()
            await until(lambda: engines.backends[0].has_ended)

    run(give_up())


def test_close_ends_what_loads_and_what_is_loaded(tmp_path: Path) -> None:
    async def close() -> None:
        engines = open_engines()
        async with manager(tmp_path, engines) as models:
            await collect(models.load("a"))
            engines.may_start.clear()
            load = asyncio.create_task(collect(models.load("b")))
            await until(lambda: "b" in engines.started)
            await models.close()
            assert engines.used_bytes == 0 and engines.cancelled == ["b"]
            for refused in (load, collect(models.load("b")), use(models, "a")):
                with pytest.raises(ShuttingDown):
                    await refused

    run(close())


def test_failed_load_is_tried_again_by_the_next_request(tmp_path: Path) -> None:
    async def retry() -> None:
        async with manager(tmp_path, open_engines()) as models:
            weights = tmp_path / "a" / "model.safetensors"
            weights.rename(tmp_path / "aside")
            with pytest.raises(ModelUnavailable):
                await use(models, "a")
            assert models.find("a").status == "failed"
            (tmp_path / "aside").rename(weights)
            await use(models, "a")
            assert models.find("a").error is None

    run(retry())


def test_backend_that_failed_is_replaced_and_closed(tmp_path: Path) -> None:
    async def replace_it() -> None:
        engines = open_engines()
        async with manager(tmp_path, engines) as models:
            await use(models, "a")
            engines.backends[0].failure = "has been silent for 60 s"
            await use(models, "a")
            assert [backend.has_ended for backend in engines.backends] == [True, False]

    run(replace_it())


def test_request_that_leaves_first_does_not_cancel_the_load_of_others(tmp_path: Path) -> None:
    async def leave(moment: int) -> None:
        engines = StandInEngines()
        engines.may_end.set()
        async with manager(tmp_path, engines) as models:
            first = asyncio.create_task(collect(models.load("a")))
            await turns(moment)
            second = asyncio.create_task(use(models, "a"))
            await turns(1)
            first.cancel()
            engines.may_start.set()
            await second
            assert engines.cancelled == [] and engines.started == ["a"]

    for moment in MOMENTS:
        run(leave(moment))


def test_switch_left_early_keeps_the_current_model(tmp_path: Path) -> None:
    async def leave() -> None:
        engines = open_engines()
        async with manager(tmp_path, engines) as models:
            await use(models, "a")
            engines.may_start.clear()
            await leave_after_first(models.switch("b"))
            await until(lambda: models.find("b").progress is None)
            assert models.current_name == "a" and models.find("b").status == "available"

    run(leave())
