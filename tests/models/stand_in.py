"""A backend that serves nothing: its figures are set by a test, and its replies are given beforehand."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from app.core.deadline import Deadline
from app.engine.backend import BackendStats, EngineBackend, GenerationEvent, ModelInput
from app.engine.ipc.messages import ModelInfo, SamplingParams

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


@dataclass
class StandInBackend:
    """Answers every request with `reply`."""

    info: ModelInfo = INFO
    stats: BackendStats = BackendStats(0, 1)
    failure: str | None = None
    reply: Sequence[GenerationEvent] = ()
    requests: list[ModelInput] = field(default_factory=list)
    is_closed: bool = False

    @property
    def is_alive(self) -> bool:
        return not self.is_closed

    async def generate(
        self, model_input: ModelInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[GenerationEvent, None]:
        self.requests.append(model_input)
        for event in self.reply:
            yield event

    async def close(self) -> None:
        self.is_closed = True


def _is_a_backend(stand_in: StandInBackend) -> EngineBackend:
    return stand_in  # checked by mypy
