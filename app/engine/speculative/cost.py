"""Owns what a guess costs: measured once, so that guessing happens where it gains more than that."""

import time
from dataclasses import dataclass

from app.engine.execution.model_runner import ModelRunner
from app.engine.kv.slot import KVAllocator
from app.engine.scheduler import Chunk, TokenSequence

_HISTORY = 16  # ids before the pass that is timed
_GUESSED = 7  # rows beside the one that a step computes anyway
CALIBRATION_TOKENS = _HISTORY + _GUESSED  # for which there must be room
_REPETITIONS = 3  # the fastest counts: the one least disturbed by whatever else the machine does


@dataclass(frozen=True, slots=True)
class SpeculationCost:
    """In steps that decode one sequence: of a further row, and of a pass of the draft model over one."""

    row: float = 0.02
    draft: float = 0.5

    def check(self, decoding: int) -> float:
        """Of checking one guess of one of so many sequences: every one of them waits for it."""
        return decoding * self.row / (1 + self.row * (decoding - 1))

    def draft_and_check(self, decoding: int) -> float:
        """The same of a guess that the draft model makes, for all of the sequences in one pass."""
        return self.check(decoding) + self.draft / (1 + self.row * (decoding - 1))


def calibrate(runner: ModelRunner, draft: ModelRunner | None, store: KVAllocator) -> SpeculationCost:
    """Times passes over made-up ids, in slots of their own."""
    single, several = _pass_s(runner, store, ()), _pass_s(runner, store, (0,) * _GUESSED)
    drafting = 0.0 if draft is None else _pass_s(draft, store, ())
    return SpeculationCost(max(several / single - 1, 0.0) / _GUESSED, drafting / single)


def _pass_s(runner: ModelRunner, store: KVAllocator, guess: tuple[int, ...]) -> float:
    slot = store.new(_HISTORY + len(guess))
    sequence = TokenSequence("price", [0] * _HISTORY, slot=slot)
    try:
        runner.forward([Chunk(sequence, _HISTORY)])
        sequence.computed = _HISTORY - 1
        return min(_timed(runner, Chunk(sequence, 1, guess)) for _ in range(_REPETITIONS))
    finally:
        store.drop(slot)


def _timed(runner: ModelRunner, chunk: Chunk) -> float:
    began = time.perf_counter()
    runner.forward([chunk]).argmax(-1).tolist()  # which waits for the device
    return time.perf_counter() - began
