"""Services with scripted replies, and a real server in a thread that serves them."""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, Self

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from app.core.api_keys import KeyRing
from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import (
    ConversationBusy,
    ConversationNotFound,
    ModelNotFound,
    ShuttingDown,
    TurnElsewhere,
    TurnNotFound,
    WorkerDied,
)
from app.engine.backend import ModelInput
from app.main import create_app
from app.models import schemas
from app.models.branches import ConversationBranches
from app.models.chat.completion import GenerateEvent
from app.models.chat.reply import GeneratedReply
from app.models.choices import ChoiceEvent
from app.models.key_limits import KeyLimits
from app.models.lifecycle.switch import LoadEvent
from app.models.storage.storage import MemoryStorage
from app.models.storage.store import PageRequest
from app.models.turns.turn_log import EventReader, TurnIds, TurnRecord, TurnSnapshot
from app.services import Services
from tests.waiting import LIMIT_S

NOW = datetime(2026, 1, 1, tzinfo=UTC)
USAGE = schemas.Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=0)
TIMINGS = schemas.Timings(queue_s=0, first_token_s=0.1, total_s=0.2, tokens_per_second=20)
PARAMETERS = schemas.Parameters(
    max_tokens=None,
    temperature=0,
    top_p=1,
    top_k=0,
    min_p=0,
    repetition_penalty=1,
    presence_penalty=0,
    frequency_penalty=0,
    seed=None,
    stop=[],
)
LONG = "x" * 20_000_000  # more than all buffers on the way hold
LINE_ENDS = "a\x85b\u2028c\u2029d\r\n\ne"
START = schemas.StartEvent(
    conversation_id="conv_1",
    message_id="msg_1",
    model_name="fake",
    model_id="tests/fake",
    prompt_tokens=3,
    omitted_messages=0,
)
REPLY = schemas.ChatResponse(
    response="Hello\nthere",
    conversation_id="conv_1",
    message_id="msg_1",
    model_name="fake",
    model_id="tests/fake",
    generation_time=0.2,
    finish_reason="stop",
    message_count=2,
    usage=USAGE,
    timings=TIMINGS,
    omitted_messages=0,
    parameters=PARAMETERS,
)
GENERATED = schemas.GenerateResponse(
    generated_text=["Hello\nthere"],
    finish_reasons=["stop"],
    prompt="hello",
    model_name="fake",
    model_id="tests/fake",
    generation_time=0.2,
    parameters=PARAMETERS,
    usage=USAGE,
    timings=TIMINGS,
)
GENERATED_REPLY = GeneratedReply(
    parts=(schemas.TextPart(text="Hello\nthere"),),
    model_name="fake",
    model_id="tests/fake",
    finish_reason="stop",
    usage=USAGE,
    timings=TIMINGS,
    parameters=PARAMETERS,
    logprobs=None,
    prompt_logprobs=None,
)
SWITCHED = schemas.SwitchModelResponse(
    message="Switched", model_name="fake", model_id="tests/fake", load_time=1
)


State = Literal["ok", "loading", "degraded", "unavailable"]
ReplyEvent = schemas.StartEvent | schemas.DeltaEvent | schemas.ChatResponse


class Scripted:
    """All services in one. A reply follows the script that its message names.

    Its events are set in the server's thread and awaited in a test's.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.calls: list[object] = []
        self.owners: list[str] = []  # of the calls that were given one
        self.waiting = threading.Event()  # a generator waits for ever
        self.cancelled = threading.Event()  # and was cancelled there
        self.closing = asyncio.Event()
        self.state: State = "ok"

    async def run(self, script: str) -> AsyncGenerator[ReplyEvent, None]:
        if script == "busy":
            raise ConversationBusy("One turn at a time.", retry_after=3)
        if script == "bug":
            raise ZeroDivisionError("secret")
        if script == "hang at once":
            await self._hang()
        if script == "long":
            yield REPLY.model_copy(update={"response": LONG})
            return
        yield START
        yield schemas.DeltaEvent(text="Hello")
        if script == "line ends":
            yield schemas.DeltaEvent(text=LINE_ENDS)
        if script == "die":
            raise WorkerDied("The worker died.", hint="Ask again.")
        if script == "bug later":
            raise ZeroDivisionError("secret")
        if script == "hang":
            await self._hang()
        if script == "flood":
            async with aclosing(self._flood()) as deltas:
                async for delta in deltas:
                    yield delta
        if script == "until closed":
            await self._until_closed()
        yield schemas.DeltaEvent(text="\nthere")
        yield REPLY

    async def _hang(self) -> None:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def _flood(self) -> AsyncGenerator[schemas.DeltaEvent, None]:
        try:
            while True:
                yield schemas.DeltaEvent(text="x" * 100_000)
                await asyncio.sleep(0)
        finally:
            self.cancelled.set()

    async def _until_closed(self) -> None:
        self.waiting.set()
        await self.closing.wait()
        raise ShuttingDown("The server is shutting down.")

    def _call(self, owner: str, *call: object) -> None:
        self.owners.append(owner)
        self.calls.append(call[0] if len(call) == 1 else call)

    # ChatService

    async def chat(
        self,
        owner: str,
        request: schemas.ChatRequest,
        deadline: Deadline,
        key: str | None = None,
        *,
        echo: str | None = None,
        chosen_id: str | None = None,
    ) -> EventReader:
        self._call(owner, *(request,) if key is None else (request, key))
        if request.conversation_id == "conv_none":
            raise ConversationNotFound("No conversation has this id.")
        return ScriptedReader(self.run(request.message or ""))

    async def edit(
        self, owner: str, conversation_id: str, request: schemas.EditRequest, deadline: Deadline
    ) -> EventReader:
        self._call(owner, conversation_id, request)
        return ScriptedReader(self.run(""))

    async def regenerate(
        self, owner: str, conversation_id: str, request: schemas.RegenerateRequest, deadline: Deadline
    ) -> EventReader:
        self._call(owner, conversation_id, request)
        return ScriptedReader(self.run(""))

    async def continue_reply(
        self, owner: str, conversation_id: str, request: schemas.ContinueRequest, deadline: Deadline
    ) -> EventReader:
        self._call(owner, conversation_id, request)
        return ScriptedReader(self.run(""))

    def running(self, owner: str) -> schemas.RunningTurnsResponse:
        self._call(owner)
        return schemas.RunningTurnsResponse(turns=[])

    async def events(self, owner: str, message_id: str, after: int, *, is_here: bool = False) -> EventReader:
        self._call(owner, message_id, after)
        if message_id == "msg_none" or (is_here and message_id == "msg_elsewhere"):
            raise TurnNotFound("No such turn.")
        return ScriptedReader(self.run("die" if message_id == "msg_dead" else ""), after)

    async def snapshot(self, owner: str, message_id: str) -> TurnSnapshot:
        self._call(owner, message_id)
        raise TurnNotFound("No such turn.")

    async def stop(self, owner: str, message_id: str, *, is_here: bool = False) -> schemas.StopTurnResponse:
        self._call(owner, message_id)
        if message_id == "msg_elsewhere":
            raise TurnNotFound("No such turn.") if is_here else TurnElsewhere("Another server runs it.")
        return schemas.StopTurnResponse(message_id=message_id, was_running=False, reply=REPLY)

    # ConversationService

    async def new(
        self, owner: str, request: schemas.NewChatRequest, chosen_id: str | None = None
    ) -> schemas.NewChatResponse:
        self._call(owner, request)
        return _started(request.title)

    async def get(
        self, owner: str, conversation_id: str, *, is_tree: bool = False
    ) -> schemas.ConversationResponse:
        self._call(owner, conversation_id, is_tree)
        return _conversation(conversation_id)

    async def list(self, owner: str, page: PageRequest) -> schemas.ConversationListResponse:
        self._call(owner, page)
        return schemas.ConversationListResponse(
            conversations=[], total=0, limit=page.limit, offset=page.offset
        )

    async def update(
        self, owner: str, conversation_id: str, request: schemas.UpdateConversationRequest
    ) -> schemas.ConversationResponse:
        self._call(owner, conversation_id, request)
        return _conversation(conversation_id)

    async def delete(self, owner: str, conversation_id: str) -> schemas.DeletedResponse:
        self._call(owner, conversation_id)
        return schemas.DeletedResponse(conversation_id=conversation_id)

    async def delete_all(self, owner: str) -> schemas.DeletedAllResponse:
        self._call(owner)
        return schemas.DeletedAllResponse(deleted=1, kept=0)

    async def undo(
        self, owner: str, conversation_id: str, request: schemas.UndoRequest
    ) -> schemas.UndoResponse:
        self._call(owner, conversation_id, request)
        return schemas.UndoResponse(
            conversation_id=conversation_id, removed_messages=2 * request.turns, message_count=0
        )

    async def select(
        self, owner: str, conversation_id: str, request: schemas.SelectRequest
    ) -> schemas.SelectResponse:
        self._call(owner, conversation_id, request)
        return schemas.SelectResponse(
            conversation_id=conversation_id, head_id=request.message_id, message_count=2
        )

    async def fork(
        self, owner: str, conversation_id: str, request: schemas.ForkConversationRequest
    ) -> schemas.NewChatResponse:
        self._call(owner, conversation_id, request)
        return _started(None)

    # GenerationService

    async def generate(
        self, owner: str, request: schemas.GenerateRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerateEvent, None]:
        self.owners.append(owner)
        self.calls.append(request)
        async with aclosing(self.run(request.prompt)) as events:
            async for event in events:
                yield GENERATED if isinstance(event, schemas.ChatResponse) else event

    # TokenService

    async def tokenize(
        self, request: schemas.TokenizeRequest, deadline: Deadline
    ) -> schemas.TokenizeResponse:
        self.calls.append(request)
        return schemas.TokenizeResponse(model_name="fake", token_ids=[1], tokens=["a"], count=1)

    async def detokenize(
        self, request: schemas.DetokenizeRequest, deadline: Deadline
    ) -> schemas.DetokenizeResponse:
        self.calls.append(request)
        return schemas.DetokenizeResponse(model_name="fake", text="a")

    async def count(
        self, owner: str, request: schemas.CountRequest, deadline: Deadline
    ) -> schemas.CountResponse:
        self.calls.append(request)
        return schemas.CountResponse(model_name="fake", tokens=1, context_length=160)

    async def count_input(
        self, model_input: ModelInput, model_name: str | None, deadline: Deadline
    ) -> schemas.CountResponse:
        self.calls.append(model_input)
        return schemas.CountResponse(model_name="fake", tokens=7, context_length=160)

    # ModelService

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        self.closing.set()

    async def switch(self, name: str) -> AsyncGenerator[LoadEvent, None]:
        self.calls.append(name)
        if name == "none":
            raise ModelNotFound("No model has that name.", hint="Did you mean builtin?")
        yield schemas.LoadProgress(model_name=name, stage="load", fraction=0.5)
        yield SWITCHED

    def load(self, name: str | None) -> AsyncGenerator[LoadEvent, None]:
        return self.switch(name or "fake")

    async def unload(self, name: str | None) -> schemas.UnloadModelResponse:
        self.calls.append(name)
        return schemas.UnloadModelResponse(message="was unloaded", model_name="fake", was_loaded=True)

    # StatusService

    async def list_models(self) -> schemas.ModelListResponse:
        return schemas.ModelListResponse(models=[], current_model="fake")

    def info(self, name: str | None = None) -> schemas.ModelInfoResponse:
        self.calls.append(name)
        return schemas.ModelInfoResponse(
            model_name=name or "fake",
            model_id=None,
            display_name="Fake",
            loaded=False,
            status="available",
            context_length=1024,
        )

    def is_ready(self) -> bool:
        return self.state == "ok"

    def health(self) -> schemas.HealthResponse:
        return schemas.HealthResponse(
            status=self.state,
            timestamp=NOW,
            uptime=1.0,
            version="0",
            boot_id="boot",
            current_model="fake",
            model=schemas.ModelHealth(name="fake", status="failed", error="It broke."),
            loading=[],
            active_requests=0,
            queued_requests=0,
        )


class ScriptedReader:
    """Reads the events of a turn after the one with the id `after`."""

    ids = TurnIds("msg_1", "conv_1")

    def __init__(self, events: AsyncGenerator[ReplyEvent, None], after: int = 0) -> None:
        self._events = events
        self._after = after
        self._number = 0

    def unjoined(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TurnRecord:
        async for event in self._events:
            self._number += 1
            if self._number > self._after:
                return TurnRecord(self._number, event)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await self._events.aclose()


class ScriptedChoices:
    """A ChoiceService whose replies follow the script that the last message names."""

    def __init__(self, scripted: Scripted) -> None:
        self._scripted = scripted

    async def generate(
        self,
        model_input: ModelInput,
        sampling: schemas.SamplingFields,
        model_name: str | None,
        deadline: Deadline,
        count: int = 1,
        *,
        may_omit: bool = False,
    ) -> AsyncGenerator[ChoiceEvent, None]:
        self._scripted.owners.append(model_input.scope)
        self._scripted.calls.append(model_input)
        asked = model_input.prompt if model_input.messages is None else model_input.messages[-1].content
        async with aclosing(self._scripted.run(str(asked or ""))) as events:
            async for event in events:
                yield 0, GENERATED_REPLY if isinstance(event, schemas.ChatResponse) else event

    def generate_all(
        self,
        model_inputs: Sequence[ModelInput],
        sampling: schemas.SamplingFields,
        model_name: str | None,
        deadline: Deadline,
        count: int = 1,
    ) -> AsyncGenerator[ChoiceEvent, None]:
        (model_input,) = model_inputs
        return self.generate(model_input, sampling, model_name, deadline, count)


def _started(title: str | None) -> schemas.NewChatResponse:
    return schemas.NewChatResponse(
        conversation_id="conv_1",
        title=title,
        system_prompt="",
        model_name="fake",
        message_count=0,
        created_at=NOW,
    )


def _conversation(conversation_id: str) -> schemas.ConversationResponse:
    return schemas.ConversationResponse(
        conversation_id=conversation_id,
        title=None,
        system_prompt="",
        model_name=None,
        created_at=NOW,
        updated_at=NOW,
        message_count=0,
        messages=[],
    )


def scripted_services(scripted: Scripted, settings: Settings) -> Services:
    storage = MemoryStorage(settings)
    return Services(
        models=scripted,
        chats=scripted,
        conversations=scripted,
        branches=ConversationBranches(settings, storage.store, storage.locks),
        generator=scripted,
        choices=ScriptedChoices(scripted),
        tokens=scripted,
        status=scripted,
        storage=storage,
        limits=KeyLimits.of(settings),
        request_timeout_s=settings.request_timeout,
    )


def fake_app(scripted: Scripted, **settings: Any) -> FastAPI:  # Any: as Settings types them
    return create_app(Settings(_env_file=None, **settings), partial(scripted_services, scripted))


def keys_of(**settings: Any) -> KeyRing:  # Any: as Settings types them
    return KeyRing(Settings(_env_file=None, **settings))


class StartedServer(uvicorn.Server):
    """Sets an event when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()


@contextmanager
def serving(
    app: ASGIApp, port: int = 0, **options: Any
) -> Iterator[str]:  # Any: as uvicorn.Config types them
    """The URL of a real server, which has started, on that port; 0: any free one."""
    listening = socket.create_server(("127.0.0.1", port))
    server = StartedServer(uvicorn.Config(app, log_config=None, lifespan="auto", **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert server.has_started.wait(LIMIT_S), "the server did not start"
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(LIMIT_S)
        listening.close()
        assert not thread.is_alive(), "the server did not stop"
