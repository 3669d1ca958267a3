"""Runs the model's forward pass over the packed tokens of a step, as a CUDA graph if possible.

It computes logits only for the rows from which a next token is sampled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.engine.device import on_device
from app.engine.execution.attention.decode import DecodeAttention, find_kernel
from app.engine.execution.attention.flash import FlashAttention, has_flash_attention
from app.engine.execution.attention.interface import AttentionBatch
from app.engine.execution.attention.varlen import PackedSequence, VarlenAttention
from app.engine.execution.cuda_graph import CudaGraphs
from app.engine.execution.direct_pass import DirectPass
from app.engine.execution.rows.row_pass import RowPass
from app.engine.kv.pool import KVPool
from app.engine.layers.schemes import has_onednn_products
from app.engine.scheduling import pass_size
from app.engine.scheduling.sequence import Chunk


@dataclass(slots=True)
class _Packed:
    """The tokens of all chunks, one chunk after the other."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sequences: list[PackedSequence] = field(default_factory=list)
    logits_rows: list[int] = field(default_factory=list)
    padding: int = 0  # rows after those of the sequences

    def add(self, chunk: Chunk) -> None:
        sequence, start, begin = chunk.sequence, chunk.sequence.computed, len(self.ids)
        self.ids += sequence.ids[start : start + chunk.count]
        self.ids += chunk.draft_ids
        self.positions += range(start, start + chunk.rows)
        self.sequences.append(PackedSequence(sequence.slot, begin, len(self.ids), start))
        self.logits_rows += range(len(self.ids) - chunk.logits_rows, len(self.ids))

    def pad(self, rows: int) -> None:
        """Add rows that belong to no sequence, up to this number of rows in all."""
        self.padding = rows - len(self.ids)
        self.ids += [0] * self.padding
        self.positions += [0] * self.padding


class ModelRunner:
    """`model` attends through `attention.attend`; its layers are numbered in slots from `first_layer` on.

    With a `pool`, in which all slots lie, small steps use DecodeAttention and CUDA graphs (see CudaGraphs),
    unless `captures` is False, and large ones FlashAttention, if the device has it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        first_layer: int = 0,
        pool: KVPool | None = None,
        *,
        captures: bool = True,
    ) -> None:
        self._model = model
        self._first_layer = first_layer
        self._direct = DirectPass.of(model)
        self._rows = None if self._direct is None or pool is not None else RowPass.of(self._direct)
        self._pads = has_onednn_products(model)
        self.device = model.device
        self.vocabulary = int(model.config.get_text_config().vocab_size)  # ids that have an embedding
        self._kernel = find_kernel(self.device)
        self.graphs = None if pool is None or not captures else self._make_graphs(pool)
        self._flash_pool = pool if has_flash_attention(self.device, model.dtype) else None

    def _make_graphs(self, pool: KVPool) -> CudaGraphs:
        decode = partial(self._decode, pool)
        return CudaGraphs(decode, pool, self.device, reads_in_place=self._kernel is not None)

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """Returns logits `[rows, vocabulary]`, valid until the next pass.

        Each chunk has, in order, its `logits_rows`: the last of its sequence a row for its last id and one
        for every draft id. Keys and values are written into the slots. The caller must `advance` the
        sequences.
        """
        parts = list(_parts(self.graphs, chunks)) if self.graphs and self.graphs.are_possible else [chunks]
        if len(parts) == 1:
            return self._pass_logits(chunks)
        return torch.cat([self._pass_logits(part).clone() for part in parts])

    @property
    def supports_cuda_graphs(self) -> bool:
        """Whether the model can be captured, as far as it has been tried."""
        return self.graphs is not None and self.graphs.are_possible

    def recover(self) -> None:
        """Forget the graphs after a failed pass, or when the runner is no longer used."""
        if self.graphs is not None:
            self.graphs.forget()

    def _pass_logits(self, chunks: Sequence[Chunk]) -> Tensor:
        packed = _Packed()
        for chunk in chunks:
            packed.add(chunk)
        logits = None if self.graphs is None else self._graph_logits(self.graphs, packed)
        if logits is not None:
            return logits
        if self._pads and (
            len(packed.ids) > pass_size.MOST_EXACT or any(chunk.count > 1 for chunk in chunks)
        ):
            packed.pad(pass_size.padded(len(packed.ids)))
        return self._varlen_logits(packed)

    def _varlen_logits(self, packed: _Packed) -> Tensor:
        if self._rows is not None and self._rows.can_compute(packed.sequences, self._first_layer):
            return self._rows.logits(
                packed.ids, packed.positions, packed.sequences, packed.logits_rows, self._first_layer
            )
        batch = self._attention(packed)
        if self._direct is not None:
            return self._direct.logits(packed.ids, packed.positions, packed.logits_rows, batch)
        output = self._model(
            input_ids=on_device([packed.ids], self.device),
            position_ids=on_device([packed.positions], self.device),
            logits_to_keep=on_device(packed.logits_rows, self.device),
            use_cache=False,
            attention_batch=batch,
        )
        logits: Tensor = output.logits[0]
        return logits

    def _attention(self, packed: _Packed) -> AttentionBatch:
        if self._flash_pool is None:
            return VarlenAttention(packed.sequences, packed.padding, first_layer=self._first_layer)
        return FlashAttention(self._flash_pool, packed.sequences, self.device, first_layer=self._first_layer)

    def _graph_logits(self, graphs: CudaGraphs, packed: _Packed) -> Tensor | None:
        if not graphs.fits(len(packed.ids), max(packed.positions) + 1):
            return None
        starts = [graphs.pool.start(item.slot) for item in packed.sequences for _ in range(item.rows)]
        logits = graphs.logits(packed.ids, starts, packed.positions)
        if logits is None or len(packed.logits_rows) == len(packed.ids):
            return logits
        return logits.index_select(0, on_device(packed.logits_rows, self.device))

    def _decode(self, pool: KVPool, inputs: Tensor, length: int) -> Tensor:
        ids, slot_starts, positions = inputs.unbind(0)
        output = self._model(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            attention_batch=DecodeAttention(
                pool, slot_starts, positions, length, self._kernel, first_layer=self._first_layer
            ),
        )
        logits: Tensor = output.logits[0]
        return logits


def _parts(graphs: CudaGraphs, chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    """Yields runs of chunks: all at once if a graph has room for them, else decodes as graphs have it.

    Prefill comes last. Beside it, each decode would cost several launches per layer.
    """
    if graphs.fits(sum(chunk.rows for chunk in chunks), max(map(_length, chunks))):
        yield chunks
        return
    begin, rows, longest = 0, 0, 0
    for index, chunk in enumerate(chunks):
        if chunk.count > 1:
            break
        if index > begin and not graphs.fits(rows + chunk.rows, max(longest, _length(chunk))):
            yield chunks[begin:index]
            begin, rows, longest = index, 0, 0
        rows, longest = rows + chunk.rows, max(longest, _length(chunk))
    else:
        index = len(chunks)
    if begin < index:
        yield chunks[begin:index]
    if index < len(chunks):
        yield chunks[index:]


def _length(chunk: Chunk) -> int:
    """Returns how many tokens of the sequence have keys and values after the chunk's pass."""
    return chunk.sequence.computed + chunk.rows
