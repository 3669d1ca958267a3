"""Attention for prefill on CUDA: one kernel for all sequences of a pass, whose slots lie in a pool."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from app.engine.device import on_device
from app.engine.execution.attention.interface import AttentionBatch, LayerAttention
from app.engine.execution.attention.varlen import PackedSequence, VarlenAttention
from app.engine.kv.pool import KVPool

_DTYPES = (torch.bfloat16, torch.float16)
_MOST_DIM = 256  # of a head, that the kernel takes; it must be a multiple of 8


def has_flash_attention(device: torch.device, dtype: torch.dtype) -> bool:
    """Returns whether torch has the kernel for this device and dtype."""
    return device.type == "cuda" and dtype in _DTYPES and torch.cuda.get_device_capability(device) >= (8, 0)


@dataclass(slots=True)
class FlashAttention(AttentionBatch):
    """`sequences` lie end to end in the pass. Layers that the kernel cannot compute use VarlenAttention."""

    pool: KVPool
    sequences: list[PackedSequence]
    device: torch.device
    varlen: VarlenAttention = field(init=False)
    write_indices: Tensor = field(init=False)  # `[rows]`: the pool position that each row writes
    read_indices: Tensor | None = field(init=False)  # the positions of all keys; None: those of this pass
    row_ends: Tensor = field(init=False)  # `[1 + sequences]`, int32, from 0 on
    key_ends: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.varlen = VarlenAttention(self.sequences, first_layer=self.first_layer)
        slots = [self.pool.start(sequence.slot) for sequence in self.sequences]
        starts = [start + sequence.start for start, sequence in zip(slots, self.sequences, strict=True)]
        rows = [sequence.rows for sequence in self.sequences]
        keys = [sequence.stop for sequence in self.sequences]
        self.write_indices = runs(starts, rows, self.device)
        self.read_indices = runs(slots, keys, self.device) if rows != keys else None
        self.row_ends = _ends(rows, self.device)
        self.key_ends = _ends(keys, self.device)

    def attend(self, layer: LayerAttention, query: Tensor, pairs: Tensor) -> Tensor:
        dim = query.shape[3]
        is_plain = layer.softcap is None and layer.sinks is None
        if not is_plain or dim % 8 != 0 or dim > _MOST_DIM:
            return self.varlen.attend(layer, query, pairs)
        stored = self.pool.layer(self.first_layer + layer.index, pairs)
        stored.index_copy_(3, self.write_indices, pairs)
        if self.read_indices is not None:
            pairs = stored.index_select(3, self.read_indices)
        output: Tensor = torch.ops.aten._flash_attention_forward(
            *(_rows_first(each) for each in (query, *pairs.unbind(0))),
            self.row_ends,
            self.key_ends,
            max(sequence.rows for sequence in self.sequences),
            max(sequence.stop for sequence in self.sequences),
            0.0,  # dropout
            True,  # causal: the last row of a sequence attends to its last key
            False,
            scale=layer.scale,
            window_size_left=-1 if layer.window is None else layer.window - 1,
            window_size_right=0,
        )[0]
        return output.unsqueeze(0)


def runs(starts: Sequence[int], lengths: Sequence[int], device: torch.device) -> Tensor:
    """Returns the numbers of all runs, one run after the other: `length` numbers from `start` on."""
    begins = accumulate(lengths[:-1], initial=0)
    shifts = [start - begin for start, begin in zip(starts, begins, strict=True)]
    counts, total = on_device(lengths, device), sum(lengths)
    shift = on_device(shifts, device).repeat_interleave(counts, output_size=total)
    return shift + torch.arange(total, device=device)


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    return on_device([0, *accumulate(lengths)], device, torch.int32)


def _rows_first(heads: Tensor) -> Tensor:
    """Returns `[rows, heads, dim]` of `[1, heads, rows, dim]`."""
    return heads.squeeze(0).transpose(0, 1)
