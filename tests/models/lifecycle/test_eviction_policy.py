"""Which model is unloaded for another. The backends are stand-ins with given figures."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.core.catalogue import CATALOGUE
from app.core.config import Settings
from app.core.errors import ModelTooLarge
from app.engine.backend import BackendStats
from app.models.hub.client import Weights
from app.models.lifecycle.eviction_policy import FORMS, EvictionPolicy, MemoryForecast
from app.models.lifecycle.load_task import Load, LoadMonitor
from app.models.lifecycle.served_model import ServedModel
from app.models.lifecycle.state import ModelState
from app.models.metrics.server_metrics import ServerMetrics
from tests.models.stand_in import INFO, StandInBackend
from tests.waiting import LIMIT_S

GB = 1_000_000_000


def state(name: str, last_used: float, gigabytes: int = 1, **fields: Any) -> ModelState:
    profile = replace(CATALOGUE["gpt2"], name=name, is_pinned=fields.pop("is_pinned", False))
    info = msgspec.structs.replace(INFO, card_bytes=fields.pop("card_bytes", None))
    stats = BackendStats(fields.pop("open_requests", 0), gigabytes * GB)
    loaded = ServedModel(profile, profile.sources[0], StandInBackend(info, stats), 1.0)
    given: dict[str, Any] = {"loaded": loaded, "last_used": last_used} | fields
    return ModelState(profile, **given)


def policy(**fields: Any) -> EvictionPolicy:
    given = {
        "max_loaded": 2,
        "limit_bytes": None,
        "idle_timeout_s": None,
        "is_on_host": True,
        "is_float32": False,
    }
    return EvictionPolicy(**(given | fields))


def test_candidate_is_the_least_recently_used_and_the_current_one_last() -> None:
    current, old, new = state("current", 0), state("old", 1), state("new", 2)
    limits = policy()
    assert limits.surplus_candidate([current, old, new], current) is old
    assert limits.surplus_candidate([current, new], current) is None
    assert limits.surplus_candidate([current, new], current, incoming=1) is new
    assert limits.eviction_candidate([current], current) is current


@pytest.mark.parametrize("why", [{"pins": 1}, {"open_requests": 1}, {"is_pinned": True}])
def test_model_in_use_or_pinned_is_no_candidate(why: dict[str, Any]) -> None:
    limits = policy(max_loaded=1, idle_timeout_s=1, clock=lambda: 1000.0)
    kept = state("kept", 0, **why)
    assert limits.surplus_candidate([kept, state("a", 5, pins=1)], None) is None
    assert limits.eviction_candidate([kept], None) is None
    assert limits.idle_candidate([kept]) is None


def test_idleness_has_a_limit() -> None:
    now = [100.0]
    limits = policy(idle_timeout_s=60, clock=lambda: now[0])
    first, second = state("first", 50), state("second", 90)
    assert limits.idle_candidate([second, first]) is None
    now[0] = 110
    assert limits.idle_candidate([second, first]) is first
    assert policy(clock=lambda: 1e9).idle_candidate([first]) is None


def test_room_is_the_rest_of_the_limit_or_the_free_memory() -> None:
    loaded = [state("a", 0, 2), state("b", 0, 1)]
    assert policy(limit_bytes=5 * GB).room_bytes(loaded) == 2 * GB
    assert policy(available=lambda: 100 * GB).room_bytes(loaded) == 95 * GB
    assert policy(is_on_host=False).room_bytes(loaded) is None
    assert policy(is_on_host=False, limit_bytes=5 * GB).room_bytes(loaded) == 2 * GB


def test_room_on_a_card_is_known_from_its_first_worker_on() -> None:
    limits = policy(is_on_host=False)
    on_card = state("a", 0, 20, card_bytes=100 * GB)
    assert limits.room_bytes([]) is None
    assert limits.room_bytes([on_card, state("b", 0, 30, card_bytes=100 * GB)]) == 45 * GB
    limits.check(state("small", 0), 70 * GB, [on_card])
    with pytest.raises(ModelTooLarge, match="needs about 80"):
        limits.check(state("large", 0), 80 * GB, [on_card])


def test_fits_instead_counts_the_memory_of_the_leaving_model() -> None:
    used, pinned = state("used", 0, 2, pins=1), state("pinned", 0, 9, is_pinned=True)
    limits = policy(limit_bytes=12 * GB)
    assert limits.fits_instead(3 * GB, used, [used, pinned])
    assert not limits.fits_instead(4 * GB, used, [used, pinned])
    assert not limits.fits_instead(1 * GB, pinned, [used, pinned])
    assert not limits.fits_instead(1 * GB, state("gone", 0, loaded=None), [used, pinned])


def test_needed_memory_is_computed_and_then_measured(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    incoming = ModelState(CATALOGUE["gpt2"])
    overhead = policy().needed_bytes(incoming, tmp_path) - 1000
    assert overhead > 100_000_000
    assert policy(is_float32=True).needed_bytes(incoming, tmp_path) == overhead + 2000
    incoming.measured_bytes = 5
    assert policy().needed_bytes(incoming, tmp_path) == 5


@pytest.mark.parametrize(("quantization", "is_more"), [("none", False), ("int8", True), ("int4", True)])
def test_reload_that_joins_experts_needs_more_than_was_measured(
    tmp_path: Path, quantization: Any, is_more: bool
) -> None:
    folder, limits = mixture_folder(tmp_path / "model"), policy(limit_bytes=GB, quantization=quantization)
    mixture = ModelState(CATALOGUE["gpt2"])
    first = limits.needed_bytes(mixture, folder, quantization)
    mixture.measured_bytes = GB // 2
    assert limits.needed_bytes(mixture, folder, quantization) == (first if is_more else GB // 2)
    found = Weights(mixture.profile.sources[0], folder, 2 * GB, True, holds_all_bits=True)
    assert forecast(limits, mixture, found=found) == MemoryForecast(GB // 2, True, is_more)
    mixture.measured_bytes = 5 * GB
    assert limits.needed_bytes(mixture, folder, quantization) == 5 * GB


def test_error_names_the_needed_and_the_free_memory() -> None:
    limits = policy(limit_bytes=4 * GB)
    limits.check(ModelState(CATALOGUE["gpt2"]), 3 * GB, [state("a", 0)])
    with pytest.raises(ModelTooLarge, match=r"gpt2 needs about 3.50 GB of memory; 3.00 GB are free"):
        limits.check(ModelState(CATALOGUE["gpt2"]), 3_500_000_000, [state("a", 0)])


def test_policy_comes_from_the_settings() -> None:
    settings = Settings(memory_gb=1.5, model_idle_timeout=60, device="cuda", dtype="float32", _env_file=None)
    limits = EvictionPolicy.from_settings(settings)
    assert (limits.limit_bytes, limits.idle_timeout_s) == (1_500_000_000, 60)
    assert (limits.is_on_host, limits.is_float32, limits.max_loaded) == (False, True, 2)


def model_folder(path: Path, dtype: str = "bfloat16", gigabytes: int = 2) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"dtype": dtype}))
    with (path / "model.safetensors").open("wb") as file:
        file.truncate(gigabytes * GB)  # a sparse file, which takes no space
    return path


def mixture_folder(path: Path) -> Path:
    """Returns a folder of a mixture whose experts are not rounded."""
    folder = model_folder(path)
    (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16", "model_type": "jetmoe"}))
    return folder


def forecast(
    limits: EvictionPolicy, new: ModelState, *others: ModelState, found: Weights | None = None
) -> MemoryForecast:
    return limits.forecasts([new], [new, *others], {} if found is None else {new.name: found})[new.name]


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_forecast_is_what_a_load_would_need(tmp_path: Path, quantization: Any, dtype: str) -> None:
    folder, new = model_folder(tmp_path / "model", dtype), state("new", 0, loaded=None)
    limits = policy(quantization=quantization)
    found = Weights(new.profile.sources[0], folder, 2 * GB, dtype == "bfloat16")
    assert forecast(limits, new, found=found).needed_bytes == limits.needed_bytes(new, folder, quantization)


def test_forecast_of_auto_is_the_form_that_fits_and_too_large_if_none_does(tmp_path: Path) -> None:
    folder, new = model_folder(tmp_path / "model"), state("new", 0, loaded=None)
    found = Weights(new.profile.sources[0], folder, 2 * GB, has_16_bits=True)
    for limit, form, is_too_large in ((10.0, "none", False), (2.3, "int8", False), (0.1, "int4", True)):
        limits = policy(limit_bytes=int(limit * GB), quantization="auto")
        expected = limits.needed_bytes(new, folder, limits.quantization_of(new, folder, []))
        assert limits.quantization_of(new, folder, []) == form
        assert forecast(limits, new, found=found) == MemoryForecast(expected, is_too_large=is_too_large)


def test_model_is_too_large_only_if_no_unloading_would_help() -> None:
    new, idle, pinned = (
        state("new", 0, loaded=None),
        state("idle", 0, 3),
        state("pinned", 0, 3, is_pinned=True),
    )
    rough = new.profile.memory_bytes
    assert rough is not None and GB < rough < 2 * GB
    assert forecast(policy(limit_bytes=4 * GB), new, idle) == MemoryForecast(rough)
    assert forecast(policy(limit_bytes=4 * GB), new, pinned).is_too_large
    assert not forecast(policy(is_on_host=False), new, pinned).is_too_large
    assert forecast(policy(limit_bytes=GB), idle) == MemoryForecast(3 * GB, is_measured=True)
    new.measured_bytes = 5 * GB
    assert forecast(policy(limit_bytes=4 * GB), new) == MemoryForecast(5 * GB, True, True)


def test_nothing_counts_as_too_large_while_a_load_takes_the_memory_that_is_available() -> None:
    async def scenario() -> None:
        new, loading = state("new", 0, loaded=None), state("loading", 0, loaded=None)
        limits = policy(available=lambda: GB)
        assert forecast(limits, new, loading).is_too_large
        ending = asyncio.Event()
        loading.load = load_until(ending)
        assert not forecast(limits, new, loading).is_too_large
        assert not forecast(limits, loading, new).is_too_large
        assert forecast(replace(limits, limit_bytes=GB), new, loading).is_too_large
        ending.set()
        await loading.load.wait_closed()
        assert forecast(limits, new, loading).is_too_large

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def load_until(ending: asyncio.Event) -> Load:
    """Returns a load that lasts until the event."""
    loaded = state("loaded", 0).loaded
    assert loaded is not None

    async def work() -> ServedModel:
        await ending.wait()
        return loaded

    return Load(
        asyncio.create_task(work()), LoadMonitor("loading", ServerMetrics().lifecycle.load_meter("loading"))
    )


def test_forecast_of_auto_on_a_card_is_that_of_all_bits(tmp_path: Path) -> None:
    folder, new = model_folder(tmp_path / "model"), state("new", 0, loaded=None)
    found = Weights(new.profile.sources[0], folder, 2 * GB, has_16_bits=True)
    limits = policy(is_on_host=False, limit_bytes=GB, quantization="auto")
    needed = limits.needed_bytes(new, folder, limits.quantization_of(new, folder, []))
    assert forecast(limits, new, found=found) == MemoryForecast(needed, is_too_large=True)


@pytest.mark.parametrize(("limit", "form"), [(10.0, "none"), (2.3, "int8"), (1.5, "int4"), (0.1, "int4")])
def test_auto_takes_the_most_bits_that_fit(tmp_path: Path, limit: float, form: str) -> None:
    folder, new = model_folder(tmp_path / "model"), state("new", 0, loaded=None)
    limits = policy(limit_bytes=int(limit * GB), quantization="auto")
    assert limits.quantization_of(new, folder, []) == form
    needed = limits.needed_bytes(new, folder, limits.quantization_of(new, folder, []))
    assert needed <= limit * GB or limit == 0.1


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_experts_that_are_joined_need_all_their_bits_while_they_load(tmp_path: Path, form: Any) -> None:
    folder, new = mixture_folder(tmp_path / "model"), state("new", 0, loaded=None)
    limits = policy(quantization=form)
    assert limits.needed_bytes(new, folder, form) == limits.needed_bytes(new, folder, "none")
    found = Weights(new.profile.sources[0], folder, 2 * GB, has_16_bits=True, holds_all_bits=True)
    assert forecast(limits, new, found=found).needed_bytes == limits.needed_bytes(new, folder, form)


def test_a_models_own_quantization_comes_first(tmp_path: Path) -> None:
    folder, new = model_folder(tmp_path / "model"), state("new", 0, loaded=None)
    assert policy(quantization="int8").quantization_of(new, folder, []) == "int8"
    new.profile = replace(new.profile, quantization="int4")
    assert policy(quantization="int8").quantization_of(new, folder, []) == "int4"


def test_fewer_bits_need_less_memory_and_a_gguf_file_little_more_than_its_size(tmp_path: Path) -> None:
    new = state("new", 0, loaded=None)
    for dtype, size in (("bfloat16", 2), ("float32", 4)):
        folder = model_folder(tmp_path / dtype, dtype, size)
        estimates = [policy().needed_bytes(new, folder, form) for form in FORMS]
        assert estimates == sorted(estimates, reverse=True) and estimates[-1] == int(1.3 * GB)
    file = tmp_path / "model.gguf"
    with file.open("wb") as content:
        content.truncate(GB)
    assert policy().needed_bytes(new, file) == int(1.9 * GB)
