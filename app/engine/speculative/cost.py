"""Measures the cost of draft tokens, so that speculation happens only when it gains more than it costs."""

import time
from dataclasses import dataclass

from app.engine.execution.model_runner import ModelRunner
from app.engine.kv.slot import KVAllocator
from app.engine.scheduling.sequence import Chunk, TokenSequence

_HISTORY = 16  # ids before the timed pass
_DRAFT_IDS = 7  # rows in addition to the one that every decode computes
CALIBRATION_TOKENS = _HISTORY + _DRAFT_IDS  # the context window must have room for them
_REPETITIONS = 3  # the fastest counts, because other programs disturbed it least


@dataclass(frozen=True, slots=True)
class SpeculationCost:
    """Costs in units of one decode step of one sequence. The defaults are typical values."""

    row: float = 0.02  # one more row in a pass
    draft: float = 0.5  # a pass of the draft model over one row

    @classmethod
    def calibrate(
        cls, runner: ModelRunner, draft_runner: ModelRunner | None, allocator: KVAllocator
    ) -> "SpeculationCost":
        """Returns the costs measured with passes over arbitrary ids, in slots of their own."""
        decode_s = _pass_s(runner, allocator, ())
        verify_s = _pass_s(runner, allocator, (0,) * _DRAFT_IDS)
        draft_s = 0.0 if draft_runner is None else _pass_s(draft_runner, allocator, ())
        return cls(max(verify_s / decode_s - 1, 0.0) / _DRAFT_IDS, draft_s / decode_s)

    def verifying(self, decoding: int) -> float:
        """Returns the cost of verifying one draft token per sequence, in steps of `decoding` sequences."""
        return decoding * self.row / (1 + self.row * (decoding - 1))

    def drafting(self, decoding: int) -> float:
        """Returns the cost of making that token with the draft model, in one pass, and verifying it."""
        return self.verifying(decoding) + self.draft / (1 + self.row * (decoding - 1))


def _pass_s(runner: ModelRunner, allocator: KVAllocator, draft_ids: tuple[int, ...]) -> float:
    slot = allocator.new(_HISTORY + len(draft_ids))
    sequence = TokenSequence("calibration", [0] * _HISTORY, slot=slot)
    try:
        runner.forward([Chunk(sequence, _HISTORY)])
        sequence.advance(_HISTORY - 1)
        return min(_timed_s(runner, Chunk(sequence, 1, draft_ids)) for _ in range(_REPETITIONS))
    finally:
        allocator.drop(slot)


def _timed_s(runner: ModelRunner, chunk: Chunk) -> float:
    began = time.perf_counter()
    runner.forward([chunk]).argmax(-1).tolist()  # waits for the device
    return time.perf_counter() - began
