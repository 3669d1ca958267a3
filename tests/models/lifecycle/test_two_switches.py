"""Of several switches, the one that was asked for last decides. The backends are stand-ins."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.core.errors import ModelTooLarge
from app.models.schemas import SwitchModelResponse
from tests.models.conftest import collect, leased
from tests.models.lifecycle.test_loader import manager, open_engines, run
from tests.models.stand_in_engines import StandInEngines
from tests.waiting import until

GB = 10**9


def test_switch_asked_for_last_wins_though_it_ends_first(tmp_path: Path) -> None:
    async def switch_twice() -> None:
        engines = open_engines()
        async with manager(tmp_path, engines, max_loaded=4) as models:
            await collect(models.load("a"))
            await collect(models.load("c"))
            engines.may_start.clear()
            first = asyncio.create_task(collect(models.switch("b")))
            await until(lambda: "b" in engines.started)
            await collect(models.switch("c"))
            engines.may_start.set()
            done = (await first)[-1]
            assert isinstance(done, SwitchModelResponse)
            assert done.message == "b is loaded, but a later request switched to c"
            assert models.current_name == "c"

    run(switch_twice())


def test_switch_asked_for_again_wins(tmp_path: Path) -> None:
    async def switch_three_times() -> None:
        engines = StandInEngines()
        engines.may_end.set()
        async with manager(tmp_path, engines, max_loaded=4) as models:
            switches = []
            for name in ("b", "c", "b"):
                switches.append(asyncio.create_task(collect(models.switch(name))))
                await until(lambda: models.find(name).progress is not None)  # noqa: B023  # at once
            engines.may_start.set()
            await asyncio.gather(*switches)
            assert models.current_name == "b"

    run(switch_three_times())


def test_switch_that_fails_leaves_an_earlier_one_in_force(tmp_path: Path) -> None:
    async def switch_twice() -> None:
        engines = open_engines()
        async with manager(tmp_path, engines, max_loaded=4) as models:
            await collect(models.load("a"))
            engines.may_start.clear()
            first = asyncio.create_task(collect(models.switch("b")))
            await until(lambda: "b" in engines.started)
            second = asyncio.create_task(collect(models.switch("c")))
            await until(lambda: models.find("c").progress is not None)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            engines.may_start.set()
            await first
            assert models.current_name == "b"

    run(switch_twice())


def test_switch_without_room_does_not_displace_a_later_one(tmp_path: Path) -> None:
    async def switch_twice() -> None:
        engines = open_engines()
        engines.memory_bytes = GB
        async with (
            manager(tmp_path, engines, limit_bytes=5 * GB // 2, max_loaded=4) as models,
            AsyncExitStack() as users,
        ):
            for name in ("a", "c"):
                await users.enter_async_context(leased(models, name))
            engines.may_start.clear()
            other = asyncio.create_task(users.enter_async_context(leased(models, "d")))
            await until(lambda: "d" in engines.started)
            first = asyncio.create_task(collect(models.switch("b")))
            await until(lambda: models.find("b").progress is not None)
            await collect(models.switch("c"))
            engines.may_start.set()
            await other
            with pytest.raises(ModelTooLarge):
                await first
            assert models.current_name == "c"

    run(switch_twice())


def test_switch_where_one_model_may_be_loaded_unloads_the_old_one(tmp_path: Path) -> None:
    async def switch() -> None:
        engines = open_engines()
        async with manager(tmp_path, engines, max_loaded=1) as models:
            await collect(models.load("a"))
            await collect(models.switch("b"))
            assert [name for name in ("a", "b") if models.find(name).loaded] == ["b"]
            assert engines.started == ["a", "b"]

    run(switch())
