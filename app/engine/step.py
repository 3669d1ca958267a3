"""Computes a step in two halves: starts its forward pass, and later samples the tokens from the logits.

On a graphics card the pass runs between the two, while the caller does something else.
"""

import logging
from dataclasses import dataclass

from torch import Tensor

from app.engine.execution.decoder import Decoder
from app.engine.grammars.masks import MaskWorker
from app.engine.request import Request
from app.engine.sampling.step import ChunkOutcome, sample_step
from app.engine.scheduling.sequence import Chunk, TokenSequence

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """A step whose forward pass was started. `logits` may not be computed yet."""

    chunks: list[Chunk]
    requests: list[Request]  # of the chunks
    logits: Tensor
    began_at: float

    @property
    def prefill_rows(self) -> int:
        return sum(chunk.count for chunk in self.chunks if chunk.count > 1)

    def leave(self, sequence: TokenSequence) -> None:
        """Let a sequence that ends during this step count the ids whose keys and values it computes."""
        for chunk in self.chunks:
            if chunk.sequence is sequence:
                sequence.advance(min(chunk.count, sequence.pending))


class StepComputer:
    """Computes one step after the other: `start`, then `finish`. A failure is logged."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._masks = MaskWorker()

    def start(self, chunks: list[Chunk], requests: list[Request], now: float) -> Step | None:
        """Start the forward pass, and the grammars' masks beside it. Returns None if that failed."""
        try:
            self._masks.start(
                (request.sampler.grammar, chunk.draft_ids)
                for chunk, request in zip(chunks, requests, strict=True)
                if chunk.is_last and request.sampler.grammar is not None
            )
            return Step(chunks, requests, self._decoder.forward(chunks), now)
        except Exception:  # the root of this step's requests: they fail, the engine continues
            _log.exception("a step of %d sequences failed", len(chunks))
            return None

    def finish(self, step: Step) -> list[ChunkOutcome] | None:
        """Returns the outcome of each chunk; None if the pass failed. The sequences have not advanced yet."""
        try:
            self._masks.finish()
            return sample_step(step.logits, step.chunks, [request.sampler for request in step.requests])
        except Exception:  # as above
            _log.exception("a step of %d sequences failed", len(step.chunks))
            return None
