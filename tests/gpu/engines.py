"""Builds engines in this process, runs requests on them and records the times of their steps."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.core.model_folder import is_complete
from app.engine.execution.packed_decoder import PackedDecoder
from app.engine.ipc.messages import Deltas, Failed, Finished, SamplingParams, Submit, WorkerSpec
from app.engine.startup import ReadyEngine, build_engine
from tests.benchmarks import shapes
from tests.benchmarks.shapes import Shape
from tests.waiting import wait_for

_GENERATION_LIMIT_S = 150


def shape_of(name: str, *, small: bool) -> Shape:
    return (shapes.SMALL if small else shapes.FULL)[name]


def folder_of(shape: Shape, cache: Path) -> Path:
    """Returns the folder of the generated model, once another step has made it."""
    folder = cache / shape.source.location
    wait_for(lambda: is_complete(folder), f"the weights of {shape.name}", _GENERATION_LIMIT_S)
    return folder


@contextmanager
def built(spec: WorkerSpec) -> Iterator[ReadyEngine]:
    ready = build_engine(spec, lambda progress: None)
    try:
        yield ready
    finally:
        ready.close()


def graph_shapes(ready: ReadyEngine) -> list[tuple[int, int]] | None:
    """Returns the rows and length of each CUDA graph; None if the model is served without them."""
    decoder = ready.engine.decoder
    graphs = decoder.runner.graphs if isinstance(decoder, PackedDecoder) else None
    return None if graphs is None else graphs.shapes


@dataclass(slots=True)
class Recording:
    """The course of some requests that were sent together. Times are seconds of the monotonic clock."""

    texts: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    cached_tokens: dict[str, int] = field(default_factory=dict)
    ends: list[float] = field(default_factory=list)  # of each step that gave tokens
    counts: list[int] = field(default_factory=list)  # of the tokens of those steps
    first_steps: dict[str, int] = field(default_factory=dict)  # the index in `ends` of each request's
    last_steps: dict[str, int] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @property
    def first_s(self) -> float:
        return self.ends[0] - self.began

    @property
    def decode_rate(self) -> float:
        """Returns tokens per second from the last first token to the first end of a reply."""
        first, last = max(self.first_steps.values()), min(self.last_steps.values())
        if first >= last:  # the first replies end before the last ones begin
            first, last = 0, len(self.ends) - 1
        return sum(self.counts[first + 1 : last + 1]) / (self.ends[last] - self.ends[first])


def record(ready: ReadyEngine, submits: Sequence[Submit]) -> Recording:
    """Runs the requests to their ends."""
    recording = Recording()
    for submit in submits:
        ready.engine.submit(submit)
    while not ready.engine.is_idle:
        messages = ready.engine.step()
        count = 0
        for message in messages:
            match message:
                case Deltas():
                    for delta in message.items:
                        known = recording.tokens.get(delta.request_id, 0)
                        count += delta.tokens - known
                        recording.first_steps.setdefault(delta.request_id, len(recording.ends))
                        recording.last_steps[delta.request_id] = len(recording.ends)
                        recording.tokens[delta.request_id] = delta.tokens
                        recording.texts[delta.request_id] = (
                            recording.texts.get(delta.request_id, "") + delta.text
                        )
                case Finished():
                    recording.cached_tokens[message.request_id] = message.usage.cached_tokens
                case Failed():
                    raise RuntimeError(f"{message.code}: {message.message}")
        if count:
            recording.ends.append(time.perf_counter())
            recording.counts.append(count)
    return recording


def greedy(request_id: str, prompt: str, max_tokens: int) -> Submit:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0)
    return Submit(request_id, sampling, prompt=prompt, scope=request_id)
