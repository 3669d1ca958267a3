"""Attention of single rows over slots in a pool, as Triton kernels that read only the keys that a row has.

The keys of a row are divided among programs, which together fill the device:
https://crfm.stanford.edu/2023/10/12/flashdecoding.html.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from app.engine.execution.attention.interface import LayerAttention
from app.engine.layers.schemes import relative_error

_PROGRAMS = 512  # that should run at a time
_BLOCK = 64  # keys that a program reads at a time
_JOINED_CHUNKS = 16  # at a time
_MOST_DIM = 256
_TOLERANCE = 0.02
_ANY = ["capacity", "chunk", "window", "group"]  # arguments whose values need no kernel of their own


def takes(dim: int, group: int) -> bool:
    """Returns whether the kernel computes heads of this size, of which `group` share a key head."""
    return dim <= _MOST_DIM and group <= 64


def attend_rows(
    layer: LayerAttention, query: Tensor, stored: Tensor, starts: Tensor, positions: Tensor, length: int
) -> Tensor:
    """Returns `[1, rows, heads, dim]`. `query` is `[1, heads, rows, dim]`; row i attends to the first
    `positions[i] + 1` of the `stored` `[2, 1, kv_heads, positions, dim]` from `starts[i]` on. `length` is
    above all positions.
    """
    assert stored.is_contiguous()
    _, heads, rows, dim = query.shape
    kv_heads = stored.shape[2]
    splits = max(1, min(_PROGRAMS // (rows * kv_heads), length // _BLOCK))
    chunk = -(-length // splits // _BLOCK) * _BLOCK
    sums = query.new_empty((rows, heads, splits, dim), dtype=torch.float32)
    weights = query.new_empty((2, rows, heads, splits), dtype=torch.float32)
    output = query.new_empty((1, rows, heads, dim))
    group, wide = heads // kv_heads, triton.next_power_of_2(max(dim, 16))
    _attend_chunk[rows, kv_heads, splits](
        query,
        stored,
        starts,
        positions,
        sums,
        weights,
        layer.scale,
        layer.softcap or 0.0,
        layer.window or 0,
        query.stride(1),
        query.stride(2),
        stored.shape[3],
        chunk,
        group,
        dim,
        max(16, triton.next_power_of_2(group)),
        wide,
        _BLOCK if wide <= 128 else _BLOCK // 2,
        layer.softcap is not None,
        "ieee" if query.dtype == torch.float32 else "tf32",
    )
    most_splits = triton.next_power_of_2(splits)
    _join_chunks[rows, heads](sums, weights, output, splits, dim, wide, most_splits, _JOINED_CHUNKS)
    return output


@torch.inference_mode()
def check(device: torch.device) -> None:
    """Raises AssertionError if the kernels compute something else than torch, or what Triton raises."""
    stored = torch.randn(2, 1, 2, 300, 64, device=device).bfloat16()
    query = torch.randn(1, 8, 1, 64, device=device).bfloat16()
    start, last = torch.tensor([2], device=device), torch.tensor([250], device=device)
    output = attend_rows(LayerAttention(0, 0.125, None, None), query, stored, start, last, 256)
    keys, values = stored[:, :, :, 2:253]
    expected = scaled_dot_product_attention(query, keys, values, scale=0.125, enable_gqa=True)
    assert relative_error(output.flatten(), expected.flatten()) < _TOLERANCE


# Triton compiles these functions, and resolves their annotations, of which it knows only its own.
@triton.jit(do_not_specialize=_ANY)
def _attend_chunk(
    query,
    stored,
    starts,
    positions,
    sums,
    weights,
    scale,
    softcap,
    window,
    query_head,
    query_row,
    capacity,
    chunk,
    group,
    dim,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One row, key head and chunk of keys: the greatest score, the sum of weights, and of weighted values."""
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    end = tl.load(positions + row).to(tl.int32) + 1
    first = split * chunk
    last = tl.minimum(first + chunk, end)
    if window > 0:
        first = tl.maximum(first, end - window)
    members, columns = tl.arange(0, GROUP), tl.arange(0, DIM)
    own, is_own, is_column = head * group + members, members < group, columns < dim
    is_shown = is_own[:, None] & is_column[None, :]
    places = own[:, None] * query_head + row * query_row + columns[None, :]
    rows = tl.load(query + places, mask=is_shown, other=0.0)
    head_size = capacity.to(tl.int64) * dim  # a layer's keys may have more numbers than 32 bits count
    keys = stored + head * head_size + tl.load(starts + row) * dim
    values = keys + tl.num_programs(1) * head_size
    most = tl.full([GROUP], float("-inf"), tl.float32)
    total = tl.zeros([GROUP], tl.float32)
    joined = tl.zeros([GROUP, DIM], tl.float32)
    for begin in range(first, last, BLOCK):
        most, total, joined = _attend_block(
            rows,
            keys,
            values,
            begin,
            last,
            dim,
            scale,
            softcap,
            most,
            total,
            joined,
            BLOCK,
            HAS_SOFTCAP,
            PRECISION,
        )
    place = (row * tl.num_programs(1) * group + own) * tl.num_programs(2) + split
    half = tl.num_programs(0) * tl.num_programs(1) * group * tl.num_programs(2)
    tl.store(weights + place, most, mask=is_own)
    tl.store(weights + half + place, total, mask=is_own)
    tl.store(sums + place[:, None] * dim + columns[None, :], joined, mask=is_shown)


@triton.jit
def _attend_block(
    rows,
    keys,
    values,
    begin,
    last,
    dim,
    scale,
    softcap,
    most,
    total,
    joined,
    BLOCK: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Returns `most`, `total` and `joined` with those of the keys from `begin` on, at most up to `last`."""
    places, columns = begin + tl.arange(0, BLOCK), tl.arange(0, rows.shape[1])
    is_key, is_column, offsets = places < last, columns < dim, places * dim
    found = tl.load(
        keys + offsets[None, :] + columns[:, None], mask=is_key[None, :] & is_column[:, None], other=0.0
    )
    scores = tl.dot(rows, found, input_precision=PRECISION) * scale
    if HAS_SOFTCAP:
        scores = softcap * (2 * tl.sigmoid(2 * scores / softcap) - 1)
    scores = tl.where(is_key[None, :], scores, float("-inf"))
    greatest = tl.maximum(most, tl.max(scores, 1))
    shrunk = tl.exp(most - greatest)
    weight = tl.exp(scores - greatest[:, None])
    added = tl.load(
        values + offsets[:, None] + columns[None, :], mask=is_key[:, None] & is_column[None, :], other=0.0
    )
    joined = joined * shrunk[:, None] + tl.dot(weight.to(added.dtype), added, input_precision=PRECISION)
    return greatest, total * shrunk + tl.sum(weight, 1), joined


@triton.jit(do_not_specialize=["splits"])
def _join_chunks(
    sums, weights, output, splits, dim, DIM: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr
):
    """Joins the chunks of one row and head, `BLOCK` at a time. At least one of them has keys."""
    place = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    half = tl.num_programs(0) * tl.num_programs(1) * splits
    members, columns = tl.arange(0, SPLITS), tl.arange(0, DIM)
    is_column = columns < dim
    greatest = tl.load(weights + place * splits + members, mask=members < splits, other=float("-inf"))
    most = tl.max(greatest, 0)
    total = 0.0
    joined = tl.zeros([DIM], tl.float32)
    for begin in range(0, splits, BLOCK):
        chunks = begin + tl.arange(0, BLOCK)
        own, is_own = place * splits + chunks, chunks < splits
        share = tl.exp(tl.load(weights + own, mask=is_own, other=float("-inf")) - most)
        total += tl.sum(share * tl.load(weights + half + own, mask=is_own, other=0.0), 0)
        is_found = is_own[:, None] & is_column[None, :]
        found = tl.load(sums + own[:, None] * dim + columns[None, :], mask=is_found, other=0.0)
        joined += tl.sum(share[:, None] * found, 0)
    tl.store(output + place * dim + columns, (joined / total).to(output.dtype.element_ty), mask=is_column)
