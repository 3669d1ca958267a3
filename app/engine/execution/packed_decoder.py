"""Computes the sequences of a step in one packed pass, with draft tokens where they pay."""

from collections.abc import Sequence

import torch
from torch import Tensor

from app.engine.device import free_unused_memory
from app.engine.execution.model_runner import ModelRunner
from app.engine.kv.pool import KVPool
from app.engine.kv.prefix_cache import KVCache
from app.engine.kv.slot import KVAllocator, PerSlotAllocator
from app.engine.loading.load import LoadedModel
from app.engine.request import Request
from app.engine.scheduling.sequence import Chunk
from app.engine.speculative.cost import CALIBRATION_TOKENS, SpeculationCost
from app.engine.speculative.draft_model import DraftModel
from app.engine.speculative.proposer import Proposer


class PackedDecoder:
    """The Decoder of models that attend through `attention.attend`."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        kv_cache_bytes: int,
        bytes_per_token: int,
        context_length: int,
        draft: LoadedModel | None = None,
        pool: KVPool | None = None,
        speculation_cost: SpeculationCost | None = None,
    ) -> None:
        """`bytes_per_token` are those of keys and values, the draft model's included.

        A `pool`, if given, stores all of them and has room for `kv_cache_bytes`.
        """
        self.pool = pool
        self._allocator: KVAllocator = PerSlotAllocator() if pool is None else pool
        self.runner = ModelRunner(loaded.model, pool=pool)
        self.proposer = Proposer(self._draft_model(draft, _layers(loaded)), speculation_cost)
        self.cache = KVCache(
            budget_bytes=kv_cache_bytes,
            bytes_per_token=bytes_per_token,
            max_tokens=context_length,
            allocator=self._allocator,
        )

    @property
    def device(self) -> torch.device:
        return self.runner.device

    def calibrate(self, context_length: int) -> None:
        """Measure the cost of draft tokens; until then typical costs are assumed."""
        if context_length >= CALIBRATION_TOKENS:
            self.proposer.calibrate(self.runner, self._allocator)

    def propose(self, decoding: Sequence[Request], max_rows: int) -> None:
        self.proposer.propose(decoding, max_rows)

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        return self.runner.forward(chunks)

    def record(self, request: Request, accepted: int) -> None:
        self.proposer.record(request, accepted)

    def forget(self, request: Request) -> None:
        self.proposer.forget(request)

    def recover(self) -> None:
        self.runner.recover()
        self.proposer.recover()
        free_unused_memory(self.device)  # no captured graph is left that uses it

    def _draft_model(self, draft: LoadedModel | None, first_layer: int) -> DraftModel | None:
        if draft is None:
            return None
        return DraftModel(ModelRunner(draft.model, first_layer, self.pool), self.runner.vocabulary)


def _layers(loaded: LoadedModel) -> int:
    return int(loaded.model.config.get_text_config().num_hidden_layers)
