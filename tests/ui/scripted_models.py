"""A server that is real but for its engines: a test sets the replies, and when they go on."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import FastAPI

from app.composition import build_services
from app.core.catalogue import BUILTIN_PATH, ModelProfile, SamplingDefaults, Source
from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import WorkerDied
from app.core.literals import FinishReason
from app.engine.backend import ModelInput
from app.engine.ipc.messages import (
    Accepted,
    Delta,
    DeltaKind,
    Finished,
    RequestTimings,
    SamplingParams,
    TokenCounts,
    ToolCallRef,
    WorkerSpec,
)
from app.main import create_app
from app.models.hub.progress import LoadReporter
from app.models.lifecycle.engines import EngineStarter
from tests.api.fakes import serving
from tests.models.stand_in import StandInBackend
from tests.waiting import until

WINDOW = 160
QUICK, OTHER, SLOW = "builtin", "gpt2", "gpt2-medium"  # names that the settings know


@dataclass(frozen=True, slots=True)
class Pause:
    """Where a reply waits until `Script.may_go_on` is set."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of thinking, or of the arguments of a tool call."""

    kind: DeltaKind
    text: str
    call_id: str = ""
    name: str = ""


PAUSE = Pause()
Pieces = Sequence[str | Piece | Pause]
UNKNOWN: Pieces = ("I do ", "not know.")


def words(text: str) -> tuple[str, ...]:
    """The text in pieces of about a word, as a model would send it."""
    parts = text.split(" ")
    return tuple(f"{part} " for part in parts[:-1]) + (parts[-1],)


@dataclass
class Script:
    """What the models answer to a question. The same question again is answered with its next reply."""

    replies: dict[str, list[Pieces]] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)  # questions whose first reply `max_tokens` cuts off
    failing: set[str] = field(default_factory=set)  # questions whose replies end with an error
    may_go_on: threading.Event = field(default_factory=threading.Event)
    may_load: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    prompts: list[ModelInput] = field(default_factory=list)
    sampling: list[SamplingParams] = field(default_factory=list)
    tokens_per_s: float | None = None  # None: as fast as the server takes them

    def answer(self, question: str, *replies: Pieces) -> None:
        self.replies[question] = list(replies)

    def next_reply(self, question: str) -> Pieces:
        number = self.asked.count(question)
        self.asked.append(question)
        replies = self.replies.get(question, [UNKNOWN])
        return replies[min(number, len(replies) - 1)]


@dataclass
class ScriptedBackend(StandInBackend):
    """Answers as the script says."""

    script: Script = field(default_factory=Script)

    async def generate(
        self, model_input: ModelInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[Accepted | Delta | Finished, None]:
        script = self.script
        assert model_input.messages is not None
        question = next(m.content for m in reversed(model_input.messages) if m.role == "user")
        pieces = script.next_reply(question)
        script.prompts.append(model_input)
        script.sampling.append(sampling)
        yield Accepted("r", prompt_tokens=40, omitted_messages=0, max_tokens=100)
        tokens, began = 0, asyncio.get_running_loop().time()
        for piece in pieces:
            if isinstance(piece, Pause):
                await until(script.may_go_on.is_set, "the test to let the reply go on")
                continue
            tokens += 1
            yield _delta(piece, tokens)
            await self._pace(began, tokens)
        if question in script.failing:
            raise WorkerDied("The model has crashed.")
        is_cut = question in script.cut and script.asked.count(question) == 1
        reason: FinishReason = "length" if is_cut else "stop"
        yield Finished("r", reason, TokenCounts(40, tokens, 0), RequestTimings(0.0, 0.1, 1.1))

    async def _pace(self, began: float, tokens: int) -> None:
        """Waits until as many tokens may have been sent."""
        loop, may_go_on = asyncio.get_running_loop(), asyncio.Event()
        rate = self.script.tokens_per_s
        loop.call_at(0.0 if rate is None else began + tokens / rate, may_go_on.set)
        await may_go_on.wait()


def _delta(piece: str | Piece, number: int) -> Delta:
    if isinstance(piece, str):
        return Delta("r", piece, number)
    call = ToolCallRef(0, piece.call_id, piece.name) if piece.kind == "tool_call" else None
    return Delta("r", piece.text, number, piece.kind, tool_call=call)


@dataclass
class ScriptedEngines:
    """Starts scripted backends. The model SLOW loads once `Script.may_load` is set."""

    script: Script

    def prepare(self) -> None:
        pass

    async def keep_prepared(self) -> None:
        pass

    def close(self) -> None:
        pass

    async def connect(self, profile: ModelProfile) -> ScriptedBackend:
        raise AssertionError("no model of these tests is remote")

    async def start(self, spec: WorkerSpec, report: LoadReporter) -> ScriptedBackend:
        report("load", 0.5)
        if spec.model_name == SLOW:
            await until(self.script.may_load.is_set, "the test to let the model load")
        return ScriptedBackend(script=self.script)


def _is_a_starter(engines: ScriptedEngines) -> EngineStarter:
    return engines  # checked by mypy


def _profile(name: str) -> ModelProfile:
    sampling = SamplingDefaults(max_tokens=100, temperature=0.7)
    source = Source(str(BUILTIN_PATH), label=f"tests/{name}")
    return ModelProfile(
        name, name.title(), f"The {name} one", (source,), WINDOW, 11_300_000, 500_000_000, sampling
    )


CATALOGUE: Mapping[str, ModelProfile] = {name: _profile(name) for name in (QUICK, OTHER, SLOW)}


def scripted_app(script: Script, **settings: Any) -> FastAPI:  # Any: as Settings types them
    """A server whose models answer as the script says; QUICK is the current one."""
    chosen = Settings(_env_file=None, model_name=QUICK, find_local_models=False, **settings)
    return create_app(chosen, partial(build_services, catalogue=CATALOGUE, engines=ScriptedEngines(script)))


@contextmanager
def page_server(script: Script, port: int = 0, **settings: Any) -> Iterator[str]:  # Any: as Settings has them
    """The URL of such a server, which runs on that port; 0: any free one."""
    with serving(scripted_app(script, **settings), port, timeout_graceful_shutdown=1) as url:
        yield url
