"""Builds an engine in this process that notes the work of its steps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.admission import ChatFormat
from app.engine.core import EngineCore
from app.engine.decoders import decoder_for, limits_for, sequence_bytes
from app.engine.execution.decoder import Decoder, SequenceCaches
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.serving_path import load_checked
from app.engine.request import Request
from app.engine.sandbox.grammar_sandbox import GrammarSandbox
from app.engine.sandbox.template_sandbox import TemplateSandbox
from app.engine.scheduling.sequence import Chunk
from tests.capacity.step_times import StepShape, shape_of


class RecordingDecoder:
    """A Decoder that notes the work of the last pass."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.shape: StepShape | None = None

    @property
    def cache(self) -> SequenceCaches:
        return self._decoder.cache

    @property
    def device(self) -> torch.device:
        return self._decoder.device

    def calibrate(self, context_length: int) -> None:
        self._decoder.calibrate(context_length)

    def propose(self, decoding: Sequence[Request], max_rows: int) -> None:
        """Proposes nothing: a step is measured as it is without draft tokens."""

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        self.shape = shape_of(chunks)
        return self._decoder.forward(chunks)

    def record(self, request: Request, accepted: int) -> None:
        self._decoder.record(request, accepted)

    def forget(self, request: Request) -> None:
        self._decoder.forget(request)

    def recover(self) -> None:
        self._decoder.recover()


@dataclass(frozen=True, slots=True)
class RecordingEngine:
    engine: EngineCore
    recorder: RecordingDecoder


@contextmanager
def recording_engine(spec: WorkerSpec) -> Iterator[RecordingEngine]:
    """Builds the engine that a worker would build, but neither warms it up nor calibrates it."""
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    served = load_checked(spec, lambda stage, fraction: None)
    size = sequence_bytes(served)
    limits = limits_for(spec, served, size)
    recorder = RecordingDecoder(decoder_for(served, limits, size))
    template_sandbox, grammar_sandbox = TemplateSandbox(), GrammarSandbox()
    engine = EngineCore(
        served.loaded,
        recorder,
        limits,
        chat_format=ChatFormat(spec.chat_template, spec.stop),
        sandbox=template_sandbox,
        grammar_sandbox=grammar_sandbox,
    )
    try:
        yield RecordingEngine(engine, recorder)
    finally:
        template_sandbox.close()
        grammar_sandbox.close()
