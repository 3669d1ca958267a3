"""Runs a model's own forward pass, for one sequence after the other, each with the cache that it made."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.engine.device import on_device
from app.engine.own_cache.sequence_state import SequenceState, cache_argument
from app.engine.scheduling.sequence import Chunk, TokenSequence


class OwnForward:
    """`model` takes and returns a cache: see `cache_argument`."""

    def __init__(self, model: PreTrainedModel) -> None:
        argument = cache_argument(model)
        assert argument is not None, "the check at load refuses models without a cache"
        self._model = model
        self._argument = argument
        self.device = model.device

    @torch.inference_mode()
    def logits(self, chunks: Sequence[tuple[Chunk, SequenceState]]) -> Tensor:
        """Returns the `logits_rows` of each chunk in order. The states have then read the chunks."""
        rows = [self._forward(chunk, state)[: chunk.logits_rows] for chunk, state in chunks]
        return torch.cat(rows)

    def single_cost(self, count: int) -> float:
        """Returns the measured time of a pass over one id, in ids of a pass over `count` of them."""
        sequence, state = TokenSequence("calibration", [0] * (count + 1)), SequenceState()
        whole_s = self._pass_s(Chunk(sequence, count), state)
        sequence.advance(count)
        return count * self._pass_s(Chunk(sequence, 1), state) / whole_s

    def _pass_s(self, chunk: Chunk, state: SequenceState) -> float:
        began = time.perf_counter()
        self.logits([(chunk, state)]).sum().item()  # waits for the device
        return time.perf_counter() - began

    def _forward(self, chunk: Chunk, state: SequenceState) -> Tensor:
        """Returns the logits of at least one of the chunk's rows."""
        start = chunk.sequence.computed
        ids = list(chunk.sequence.ids[start : start + chunk.count])
        cache = {} if state.cache is None else {self._argument: state.cache}
        output = self._model(
            input_ids=on_device([ids], self.device),
            use_cache=True,
            logits_to_keep=max(chunk.logits_rows, 1),  # 0 would mean all
            **cache,
        )
        state.cache = getattr(output, self._argument)
        logits: Tensor = output.logits[0]
        return logits[-max(chunk.logits_rows, 1) :]
