"""Defines how a model computes its steps and keeps its sequences' caches, which differs by architecture."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from app.engine.request import Request
from app.engine.scheduling.scheduler import KVMemory
from app.engine.scheduling.sequence import Chunk


class SequenceCaches(KVMemory, Protocol):
    """The caches of running sequences, and of finished ones for later prompts, within a byte budget."""

    @property
    def used_bytes(self) -> int: ...

    def forget_finished(self) -> None:
        """Drop every cache that no running sequence uses."""

    def check_integrity(self) -> None:
        """Assert what must hold between steps; for tests."""


class Decoder(Protocol):
    """Computes the steps of one model. `cache` has what earlier steps of each sequence left behind."""

    @property
    def cache(self) -> SequenceCaches: ...

    @property
    def device(self) -> torch.device: ...

    def calibrate(self, context_length: int) -> None:
        """Measure the costs that later decisions need, in passes that fit the context. Call it while idle."""

    def propose(self, decoding: Sequence[Request], max_rows: int) -> None:
        """Propose draft ids for the requests that decode in the next step, which may have `max_rows` rows."""

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """Returns logits `[rows, vocabulary]`, valid until the next pass.

        Each chunk has, in order, its `logits_rows`. The caller must `advance` the sequences.
        """

    def record(self, request: Request, accepted: int) -> None:
        """Record that the first `accepted` draft ids of the request were right, before they are accepted."""

    def forget(self, request: Request) -> None:
        """Drop the state of a request that has ended, apart from its cache."""

    def recover(self) -> None:
        """Give back device memory after a failed pass, or when the decoder is no longer used."""
