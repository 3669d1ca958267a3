import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path

import pytest

from app.core.config import Settings
from app.core.errors import ModelBusy, ModelMissing, ModelNotFound, WorkerDied
from app.models.hub.client import Hub
from app.models.lifecycle.status import ServerStatus
from app.models.model_manager import ModelManager
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    DeltaEvent,
    LoadProgress,
    ModelEntry,
    SwitchModelResponse,
)
from tests.models.conftest import (
    OWNER,
    World,
    asyncio_timeout,
    chats_of,
    collect,
    events_of,
    pid_of,
    profile,
    soon,
)
from tests.waiting import until


def worker_pid(world: World) -> int:
    assert world.models.current is not None
    return pid_of(world.models.current.loaded)


def test_switch_reports_progress_and_then_answers_with_the_new_model(world: World) -> None:
    world.unload("tiny-b")
    before = world.chat("hello", model_name="tiny-a")
    *progress, done = world.collect(world.models.switch("tiny-b"))
    assert all(isinstance(event, LoadProgress) for event in progress)
    assert {"import", "load", "check", "pack", "warm up"} <= {
        event.stage for event in progress if isinstance(event, LoadProgress)
    }
    assert isinstance(done, SwitchModelResponse)
    assert done.load_time > 0
    assert world.chat("hello").model_name == "tiny-b"
    (again,) = world.collect(world.models.switch("tiny-a"))
    assert isinstance(again, SwitchModelResponse)
    assert again.load_time == 0
    assert world.chat("hello").response == before.response


def test_a_failed_switch_changes_nothing(world: World) -> None:
    with pytest.raises(ModelMissing):
        world.collect(world.models.switch("broken"))
    assert world.models.current_name == "tiny-a"
    assert world.chat("hello").model_name == "tiny-a"
    (broken,) = (model for model in world.run(world.status.list_models()).models if model.name == "broken")
    assert broken.status == "failed"
    assert broken.error


def test_error_for_an_unknown_model_names_the_nearest(world: World) -> None:
    with pytest.raises(ModelNotFound) as caught:
        world.collect(world.models.switch("tiny-z"))
    assert "tiny-a" in (caught.value.hint or "")


def test_loads_of_the_same_model_are_one(world: World) -> None:
    world.unload("tiny-c")

    async def twice() -> tuple[SwitchModelResponse, SwitchModelResponse]:
        async def load() -> SwitchModelResponse:
            async for event in world.models.load("tiny-c"):
                last = event
            assert isinstance(last, SwitchModelResponse)
            return last

        return await asyncio.gather(load(), load())

    first, second = world.run(twice())
    assert first.load_time == second.load_time > 0


def test_no_more_models_stay_loaded_than_allowed(world: World) -> None:
    world.load("tiny-b", "tiny-c")
    loaded = [
        model.name for model in world.run(world.status.list_models()).models if model.status == "loaded"
    ]
    assert set(loaded) == {"tiny-a", "tiny-c"}


def test_a_cancelled_switch_changes_nothing(world: World) -> None:
    world.unload("tiny-b")

    async def leave_early() -> None:
        async with aclosing(world.models.switch("tiny-b")) as events:
            await anext(events)
        await until(lambda: world.models.find("tiny-b").status != "loading", "the load to end")

    world.run(leave_early())
    assert world.models.current_name == "tiny-a"
    assert world.chat("hello").model_name == "tiny-a"
    states = {model.name: model.status for model in world.run(world.status.list_models()).models}
    assert states["tiny-b"] == "available"


def test_a_model_asked_for_again_while_its_load_is_cancelled_is_loaded(world: World) -> None:
    world.unload("tiny-b")

    async def leave_and_return() -> SwitchModelResponse:
        async with aclosing(world.models.switch("tiny-b")) as events:
            await anext(events)
        async for event in world.models.load("tiny-b"):
            last = event
        assert isinstance(last, SwitchModelResponse)
        return last

    done = world.run(leave_and_return())
    assert done.message == "tiny-b is loaded"
    assert world.models.current_name == "tiny-a"


def test_an_unload_that_is_cancelled_still_ends_its_worker(world: World) -> None:
    world.load("tiny-b")
    pid = pid_of(world.models.find("tiny-b").loaded)
    os.kill(pid, signal.SIGSTOP)  # it will not answer the request to end

    async def give_up() -> None:
        unload = asyncio.create_task(world.models.unload("tiny-b"))
        await asyncio.sleep(0)
        unload.cancel()
        await asyncio.gather(unload, return_exceptions=True)
        await until(lambda: not Path(f"/proc/{pid}").exists(), "the worker to end")

    world.run(give_up())


def test_a_killed_worker_ends_the_stream_and_the_next_request_starts_another(world: World) -> None:
    kept = world.chat("hello")

    async def kill_in_mid_sentence() -> None:
        request = ChatRequest(message="go on", conversation_id=kept.conversation_id, max_tokens=100)
        async with events_of(world.chats.chat(OWNER, request, soon())) as events:
            async for event in events:
                if isinstance(event, DeltaEvent):
                    os.kill(worker_pid(world), signal.SIGKILL)

    with pytest.raises(WorkerDied):
        world.run(kill_in_mid_sentence())
    assert not world.status.is_ready()
    assert world.status.health().status == "degraded"
    health = world.status.health().model
    assert health is not None and health.status == "failed"
    assert health.error == "The worker of tiny-a ended (signal 9); it is started again."
    history = world.run(world.conversations.get(OWNER, kept.conversation_id))
    assert [message.content for message in history.messages] == ["hello", kept.response]
    again = world.chat("hello")
    assert isinstance(again, ChatResponse)
    assert again.response == kept.response
    assert world.status.is_ready()


def test_a_request_that_meets_the_death_of_its_worker_is_begun_on_another(world: World) -> None:
    """The server does not know of the death yet when it sends the request."""
    before = world.chat("hello")
    for _ in range(3):
        os.kill(worker_pid(world), signal.SIGKILL)
        assert world.chat("hello").response == before.response


@pytest.mark.parametrize(("worker_timeout", "failure"), [(1, "has been silent"), (18, "stopped by a signal")])
def test_a_stream_of_a_stuck_worker_ends_long_before_its_deadline(
    settings: Settings, tiny_folders: dict[str, Path], tmp_path: Path, worker_timeout: float, failure: str
) -> None:
    catalogue = {"tiny-a": profile("tiny-a", tiny_folders["tiny-a"])}
    limits = {"worker_timeout": worker_timeout, "request_timeout": 3600}

    async def stop_in_mid_sentence() -> None:
        models = ModelManager(settings.model_copy(update=limits), catalogue, Hub(tmp_path))
        chats, _ = chats_of(settings, models)
        try:
            async with events_of(
                chats.chat(OWNER, ChatRequest(message="go on", max_tokens=100), soon())
            ) as events:
                async for event in events:
                    if isinstance(event, DeltaEvent):
                        os.kill(pid_of(models.find("tiny-a").loaded), signal.SIGSTOP)
        finally:
            await models.close()

    with pytest.raises(WorkerDied, match=failure):
        asyncio.run(asyncio_timeout(stop_in_mid_sentence()))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_failed_is_started_again_without_a_request(
    settings: Settings, tiny_folders: dict[str, Path], tmp_path: Path, how: signal.Signals
) -> None:
    catalogue = {"tiny-a": profile("tiny-a", tiny_folders["tiny-a"])}

    async def fail_and_wait() -> None:
        models = ModelManager(settings.model_copy(update={"worker_timeout": 1}), catalogue, Hub(tmp_path))
        status = ServerStatus(models)
        try:
            await models.start()
            await until(status.is_ready, "the model to be loaded")
            pid = pid_of(models.find("tiny-a").loaded)
            os.kill(pid, how)
            await until(lambda: status.health().status == "degraded", "the failure to be seen")
            await until(status.is_ready, "another worker")
            assert status.health().status == "ok"
            assert pid_of(models.find("tiny-a").loaded) != pid
        finally:
            await models.close()

    asyncio.run(asyncio_timeout(fail_and_wait()))


def test_status_reports_a_stuck_worker(
    world: World, settings: Settings, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    catalogue = {"tiny-a": profile("tiny-a", tiny_folders["tiny-a"])}

    async def stop_the_worker() -> ModelEntry:
        models = ModelManager(settings.model_copy(update={"worker_timeout": 2}), catalogue, Hub(tmp_path))
        await collect(models.switch("tiny-a"))
        loaded, status = models.find("tiny-a").loaded, ServerStatus(models)
        os.kill(pid_of(loaded), signal.SIGSTOP)
        await until(lambda: not status.is_ready(), "the worker to be found stuck")
        (model,) = (await status.list_models()).models
        os.kill(pid_of(loaded), signal.SIGCONT)
        await models.close()
        return model

    model = world.run(stop_the_worker())
    assert (model.status, model.error) == (
        "failed",
        "The worker of tiny-a has been silent for 2 s; it is started again.",
    )


def test_a_request_waits_for_its_model_and_shows_how_far_it_is(world: World) -> None:
    world.unload("tiny-c")
    request = ChatRequest(message="hello", model_name="tiny-c", max_tokens=4)
    events = world.turn(world.chats.chat(OWNER, request, soon()))
    kinds = [type(event).__name__ for event in events]
    assert kinds[0] == "LoadProgress"
    assert {"load", "check"} <= {event.stage for event in events if isinstance(event, LoadProgress)}
    assert kinds.index("StartEvent") == sum(kind == "LoadProgress" for kind in kinds)
    assert kinds[-1] == "ChatResponse"
    assert world.models.current_name == "tiny-a"


def test_unload_frees_the_memory_and_the_next_request_loads_again(world: World) -> None:
    kept = world.chat("hello")
    pid = worker_pid(world)
    done = world.run(world.models.unload(None))
    assert (done.model_name, done.was_loaded) == ("tiny-a", True)
    assert not Path(f"/proc/{pid}").exists()
    assert world.status.is_ready()
    assert world.status.health().status == "ok"
    assert not world.status.info().loaded
    assert not world.run(world.models.unload("tiny-a")).was_loaded
    assert world.chat("hello").response == kept.response


def test_a_model_in_use_is_not_unloaded(world: World) -> None:
    async def unload_in_mid_sentence() -> None:
        request = ChatRequest(message="go on", max_tokens=100)
        async with events_of(world.chats.chat(OWNER, request, soon())) as events:
            async for event in events:
                if isinstance(event, DeltaEvent):
                    await world.models.unload("tiny-a")

    with pytest.raises(ModelBusy, match="tiny-a is in use"):
        world.run(unload_in_mid_sentence())


def test_model_answers_while_another_one_is_kept_from_answering(world: World) -> None:
    world.load("tiny-b")
    pid = worker_pid(world)

    async def ask(name: str) -> str:
        request = ChatRequest(message="count", model_name=name, temperature=0, max_tokens=20)
        async with events_of(world.chats.chat(OWNER, request, soon())) as events:
            *_, last = [event async for event in events]
        assert isinstance(last, ChatResponse)
        return last.model_name

    async def both() -> None:
        os.kill(pid, signal.SIGSTOP)
        held = asyncio.create_task(ask("tiny-a"))
        assert await ask("tiny-b") == "tiny-b"
        assert not held.done()
        os.kill(pid, signal.SIGCONT)
        assert await held == "tiny-a"

    world.run(both())


def test_a_conversation_goes_on_with_another_model_and_back(world: World) -> None:
    world.load("tiny-b")
    first = world.chat("hello")
    second = world.chat("and you?", first.conversation_id, model_name="tiny-b")
    assert second.message_count == 4
    usage = world.chat("again?", first.conversation_id).usage
    assert usage is not None and usage.cached_tokens > 0


def test_status_reports_the_model_that_serves(world: World) -> None:
    world.chat("hello")
    info = world.status.info()
    assert info.loaded
    assert info.parameters and info.memory_bytes and info.dtype == "float32"
    health = world.status.health()
    assert health.status == "ok"
    assert health.current_model == "tiny-a"
    assert info.sampling is not None
    assert (info.sampling["temperature"].value, info.sampling["temperature"].origin) == (0.7, "profile")
    assert info.sampling["top_k"].origin == "default"
    assert not world.status.info("broken").loaded
    assert world.status.info("broken").sampling is None
