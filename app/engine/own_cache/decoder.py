"""Computes the sequences of a step with the model's own forward pass. There are no draft tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from app.engine.device import free_unused_memory
from app.engine.own_cache.caches import OwnCaches
from app.engine.own_cache.passes import PassLimits, padding_in
from app.engine.own_cache.runner import OwnForward
from app.engine.request import Request
from app.engine.scheduling.sequence import Chunk

_CALIBRATION_IDS = 64


class OwnCacheDecoder:
    """The Decoder of architectures that the packed path does not compute."""

    def __init__(self, cache: OwnCaches, forward: OwnForward, step_tokens: int) -> None:
        self.cache = cache
        self._forward = forward
        self._step_tokens = step_tokens

    @property
    def device(self) -> torch.device:
        return self._forward.device

    def calibrate(self, context_length: int) -> None:
        """Measure whether a reused cache saves time if the ids after it are read one by one."""
        if not self.cache.is_divisible and context_length > _CALIBRATION_IDS:
            self.cache.single_cost = self._forward.single_cost(_CALIBRATION_IDS)

    def propose(self, decoding: Sequence[Request], max_rows: int) -> None:
        """Proposes nothing: a state that has read a wrong draft id cannot go back."""

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        limits = PassLimits(padding=self.cache.most_padding, rows=self._step_tokens)
        passes = self._forward.passes(chunks, limits)
        self.cache.hold_padding(padding_in(chunks, passes))
        states = [self.cache.state_of(chunk.sequence) for chunk in chunks]
        return self._forward.logits(list(zip(chunks, states, strict=True)), passes)

    def record(self, request: Request, accepted: int) -> None:
        """There are no draft ids to learn from."""

    def forget(self, request: Request) -> None:
        """A request has no state here apart from its cache."""

    def recover(self) -> None:
        free_unused_memory(self.device)
