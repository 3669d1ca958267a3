"""Owns the model: the only caller of its forward pass, and what differs between devices.

One pass over the packed tokens of a step; only rows that a next token is wanted from pay for the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.engine.device import on_device
from app.engine.execution.attention.decode import DecodeAttention
from app.engine.execution.attention.varlen import Span, VarlenAttention
from app.engine.execution.cuda_graph import CudaGraphs
from app.engine.kv.pool import KVPool
from app.engine.scheduler import Chunk


@dataclass(slots=True)
class _Packed:
    """The tokens of all chunks, end to end."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)  # rows whose logits somebody needs

    def add(self, chunk: Chunk) -> None:
        sequence, start, begin = chunk.sequence, chunk.sequence.computed, len(self.ids)
        self.ids += sequence.ids[start : start + chunk.count]
        self.ids += chunk.guess
        self.positions += range(start, start + chunk.rows)
        self.spans.append(Span(sequence.slot, begin, len(self.ids), start))
        if chunk.is_last:
            self.wanted += range(len(self.ids) - 1 - len(chunk.guess), len(self.ids))


class ModelRunner:
    """`model` attends through `attention.attend`; its layers are numbered in slots from `first_layer` on.

    Slots that are an arena's are worked on row by row where they may be (see CudaGraphs).
    """

    def __init__(self, model: PreTrainedModel, first_layer: int = 0, arena: KVPool | None = None) -> None:
        self._model = model
        self._first_layer = first_layer
        self.device = model.device
        self._passes = (
            None if arena is None else CudaGraphs(partial(self._compute_rows, arena), arena, self.device)
        )

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits `[rows, vocabulary]`: of each chunk that is its sequence's last, in order, the row of its
        last id and of every guessed one. They are good until the next pass.

        Writes keys and values into the slots; that they are computed is for the caller to note.
        """
        packed = _Packed()
        for chunk in chunks:
            packed.add(chunk)
        logits = None if self._passes is None else self._row_logits(self._passes, packed)
        return self._span_logits(packed) if logits is None else logits

    @property
    def supports_cuda_graphs(self) -> bool:
        """Whether it may, as far as is known by now."""
        return self._passes is not None and self._passes.are_possible

    def recover(self) -> None:
        """After a failed pass, or where the runner is not used any more: give device memory back."""
        if self._passes is not None:
            self._passes.forget()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _span_logits(self, packed: _Packed) -> Tensor:
        output = self._model(
            input_ids=on_device([packed.ids], self.device),
            position_ids=on_device([packed.positions], self.device),
            logits_to_keep=on_device(packed.wanted, self.device),
            use_cache=False,
            step=VarlenAttention(packed.spans, first_layer=self._first_layer),
        )
        logits: Tensor = output.logits[0]
        return logits

    def _row_logits(self, passes: CudaGraphs, packed: _Packed) -> Tensor | None:
        places = [passes.arena.place(span.slot) for span in packed.spans for _ in range(span.rows)]
        logits = passes.logits(packed.ids, places, packed.positions)
        if logits is None or len(packed.wanted) == len(packed.ids):
            return logits
        return logits.index_select(0, on_device(packed.wanted, self.device))

    def _compute_rows(self, arena: KVPool, inputs: Tensor, length: int) -> Tensor:
        ids, places, positions = inputs.unbind(0)
        output = self._model(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            step=DecodeAttention(arena, places, positions, length, first_layer=self._first_layer),
        )
        logits: Tensor = output.logits[0]
        return logits
