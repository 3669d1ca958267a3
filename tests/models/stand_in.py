"""A backend whose figures and replies are set by a test, and models that are served by it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from app.core.catalogue import ModelProfile, SamplingDefaults, Source
from app.core.deadline import Deadline
from app.core.errors import DomainError, InvalidRequest, WorkerDied
from app.engine.backend import BackendStats, EngineBackend, GenerationEvent, ModelInput
from app.engine.ipc.messages import (
    Accepted,
    Delta,
    Finished,
    ModelInfo,
    RawPrompt,
    RequestTimings,
    SamplingParams,
    TokenCounts,
    Tokens,
)
from app.models.chat.conversations import KnownModels
from app.models.chat.generation import ModelLeases
from app.models.lifecycle.served_model import ServedModel
from app.models.schemas import LoadProgress

INFO = ModelInfo(
    architecture="StandIn",
    device="cpu",
    dtype="float32",
    weights="float32",
    parameters=1,
    context_length=160,
    memory_bytes=1,
    kv_cache_bytes=1,
    load_seconds=0.0,
)
HELLO = (
    Accepted("r", prompt_tokens=3, omitted_messages=1, max_tokens=20),
    Delta("r", "Well", 1, "thinking"),
    Delta("r", "Hello", 2),
    Delta("r", " there", 3),
    Finished("r", "stop", TokenCounts(3, 4, 2, 1), RequestTimings(0.0, 0.5, 2.0)),
)
WHOLE = (Accepted("r", prompt_tokens=3, omitted_messages=0, max_tokens=20), *HELLO[1:])  # nothing was omitted
SAMPLING = SamplingDefaults(max_tokens=16, temperature=0.7)
PROFILE = ModelProfile("stand-in", "Stand-in", "", (Source("tests/stand-in"),), 160, 1, 1, SAMPLING)
_CHARACTERS = range(0xD800)  # each is a token
LOADING = LoadProgress(model_name="stand-in", stage="load", fraction=0.5)


@dataclass
class StandInBackend:
    """Answers every request with `reply`."""

    info: ModelInfo = INFO
    stats: BackendStats = BackendStats(0, 1)
    failure: str | None = None
    reply: Sequence[GenerationEvent] = ()
    requests: list[ModelInput] = field(default_factory=list)
    sampling: list[SamplingParams] = field(default_factory=list)
    deadlines: list[Deadline] = field(default_factory=list)
    is_closed: bool = False
    is_endless: bool = False  # after the reply, it says nothing more until it is closed
    refusal: DomainError | None = None  # raised instead of any reply
    refusals: dict[RawPrompt, DomainError] = field(default_factory=dict)  # by prompt
    deaths: list[int] = field(default_factory=list)  # each: after so many events of a reply the worker dies

    @property
    def is_alive(self) -> bool:
        return not self.is_closed

    async def generate(
        self, model_input: ModelInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[GenerationEvent, None]:
        self.requests.append(model_input)
        self.sampling.append(sampling)
        self.deadlines.append(deadline)
        if self.refusal is not None:
            raise self.refusal
        if model_input.prompt is not None and model_input.prompt in self.refusals:
            raise self.refusals[model_input.prompt]
        for event in self.reply[: self.deaths[0]] if self.deaths else self.reply:
            yield event
        if self.is_endless:
            await asyncio.Event().wait()
        if self.deaths:
            self.deaths.pop(0)
            raise WorkerDied("The model's worker ended (signal 9).")

    async def tokenize(self, text: str, deadline: Deadline, *, adds_special_tokens: bool = True) -> Tokens:
        """One token for each character."""
        return Tokens("r", tuple(map(ord, text)), tuple(character.encode() for character in text))

    async def detokenize(
        self, token_ids: Sequence[int], deadline: Deadline, *, skips_special_tokens: bool = False
    ) -> str:
        if any(token_id not in _CHARACTERS for token_id in token_ids):
            raise InvalidRequest("token_ids: the model has no such token")
        return "".join(map(chr, token_ids))

    async def count_tokens(self, model_input: ModelInput, deadline: Deadline) -> int:
        self.requests.append(model_input)
        return 7

    async def close(self) -> None:
        self.is_closed = True


def _is_a_backend(stand_in: StandInBackend) -> EngineBackend:
    return stand_in  # checked by mypy


@dataclass
class StandInModels:
    """Lends one model under any name, after a while of loading."""

    backend: StandInBackend
    leased: list[str | None] = field(default_factory=list)
    deadlines: list[Deadline] = field(default_factory=list)
    returned: int = 0
    current_name: str | None = "stand-in"
    is_loading: bool = False  # whether the load never ends

    async def lease(
        self, name: str | None, deadline: Deadline
    ) -> AsyncGenerator[LoadProgress | ServedModel, None]:
        self.leased.append(name)
        self.deadlines.append(deadline)
        try:
            yield LOADING
            if self.is_loading:
                await asyncio.Event().wait()
            yield ServedModel(PROFILE, PROFILE.sources[0], self.backend, load_time_s=1.0)
        finally:
            self.returned += 1

    def find(self, name: str | None) -> ModelProfile:
        return PROFILE


def _lends_models(stand_in: StandInModels) -> ModelLeases:
    return stand_in


def _knows_models(stand_in: StandInModels) -> KnownModels:
    return stand_in
