"""The figures about models are the same wherever they are reported. The backends are stand-ins."""

from pathlib import Path

from app.models.lifecycle.status import ServerStatus
from app.models.model_manager import ModelManager
from tests.models.conftest import collect
from tests.models.lifecycle.test_loader import NAMES, manager, open_engines, run

MEASURED = 123_456_789


async def memory_of(models: ModelManager) -> dict[str, int | None]:
    """The memory of each model, which both routes must show."""
    status = ServerStatus(models)
    listed = {entry.name: entry.memory_bytes for entry in (await status.list_models()).models}
    assert {name: status.info(name).memory_bytes for name in NAMES} == listed
    return listed


def test_list_of_models_and_model_info_show_the_same_memory(tmp_path: Path) -> None:
    async def load_and_unload() -> None:
        engines = open_engines()
        engines.memory_bytes = MEASURED
        async with manager(tmp_path, engines) as models:
            expected = (await memory_of(models))["a"]
            for name in ("a", "b"):
                await collect(models.load(name))
            assert expected != MEASURED
            assert list((await memory_of(models)).values()) == [MEASURED, MEASURED, expected, expected]
            await models.unload("a")
            assert (await memory_of(models))["a"] == MEASURED

    run(load_and_unload())
