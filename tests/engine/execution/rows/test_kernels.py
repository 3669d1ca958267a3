"""The compiled kernels compute what torch computes, for any size, dtype and set of instructions."""

import ctypes
import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.nn.functional import layer_norm, rms_norm, scaled_dot_product_attention, silu

from app.engine.execution.rows.kernels import MOST_DIM, Attention, Norm, RowKernels, load_kernels
from app.engine.layers.compiled.compiler import find_compiler
from app.engine.layers.compiled.product import DTYPES
from tests.engine.layers.compiled.conftest import AVAILABLE, needs_product

pytestmark = needs_product
EPS = 1e-5
GUARD = 40  # numbers before and after each output, which must stay as they are
FLOATS = st.sampled_from(list(DTYPES))
SEEDS = st.integers(0, 2**16)
SLOT_ROOM = 5  # positions of a slot beyond the last
check = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module", params=AVAILABLE)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RowKernels:
    folder: Path = tmp_path_factory.mktemp("compiled")
    return load_kernels(request.param, folder, find_compiler(os.environ))


def guarded(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a copy of the numbers, and the whole memory around them, which begins at an odd address."""
    whole = torch.full((numbers.numel() + 2 * GUARD + 1,), 7.0, dtype=numbers.dtype)
    inner = whole[GUARD + 1 : GUARD + 1 + numbers.numel()]
    inner.copy_(numbers.flatten())
    return inner.view(numbers.shape), whole


def assert_guards(whole: Tensor) -> None:
    assert bool((whole[: GUARD + 1] == 7).all()) and bool((whole[-GUARD:] == 7).all())


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    tolerance = 1e-2 if ours.dtype == torch.bfloat16 else 2e-5
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=tolerance, atol=tolerance, equal_nan=True)


@given(st.integers(1, 5), st.integers(1, 200), FLOATS, st.booleans(), st.booleans(), SEEDS)
@check
def test_add_and_norm_is_that_of_torch(
    kernels: RowKernels, count: int, size: int, dtype: torch.dtype, has_bias: bool, adds: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    hidden, hidden_memory = guarded(3 * torch.randn(count, size).to(dtype))
    added = torch.randn(count, size).to(dtype)
    weight, bias = torch.randn(2, size).to(dtype).unbind()
    expected_sum = hidden + added if adds else hidden.clone()
    output, output_memory = guarded(torch.zeros(count, size, dtype=dtype))
    norm = Norm(weight.data_ptr(), bias.data_ptr() if has_bias else None, size, EPS, DTYPES[dtype])
    kernels.add_and_norm(
        ctypes.byref(norm), count, hidden.data_ptr(), added.data_ptr() if adds else None, output.data_ptr()
    )
    assert torch.equal(hidden, expected_sum)  # bfloat16 is rounded as torch rounds it
    wide, wide_weight = expected_sum.float(), weight.float()
    expected = (
        layer_norm(wide, (size,), wide_weight, bias.float(), EPS)
        if has_bias
        else rms_norm(wide, (size,), wide_weight, EPS)
    )
    if size > 1 or not has_bias:
        assert_near(output, expected.to(dtype))
    assert_guards(hidden_memory)
    assert_guards(output_memory)


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
@check
def test_sums_in_bfloat16_are_rounded_as_torch_rounds_them(kernels: RowKernels, numbers: list[float]) -> None:
    hidden = torch.tensor(numbers).bfloat16()
    added = (hidden.float() / 257).bfloat16()
    expected = hidden + added
    weight, output = torch.ones_like(hidden), torch.empty_like(hidden)
    norm = Norm(weight.data_ptr(), None, len(numbers), EPS, DTYPES[torch.bfloat16])
    kernels.add_and_norm(ctypes.byref(norm), 1, hidden.data_ptr(), added.data_ptr(), output.data_ptr())
    torch.testing.assert_close(hidden, expected, rtol=0, atol=0, equal_nan=True)


@given(st.integers(1, 4), st.integers(1, 100), FLOATS, st.sampled_from([1.0, 30.0, 200.0]), SEEDS)
@check
def test_gate_is_that_of_torch(
    kernels: RowKernels, count: int, size: int, dtype: torch.dtype, spread: float, seed: int
) -> None:
    torch.manual_seed(seed)
    both = (spread * torch.randn(count, 2 * size)).to(dtype)
    output, memory = guarded(torch.zeros(count, size, dtype=dtype))
    kernels.gate(DTYPES[dtype], count, size, both.data_ptr(), output.data_ptr())
    gates, ups = both.float().chunk(2, dim=1)
    assert_near(output, (silu(gates) * ups).to(dtype))
    assert_guards(memory)


@given(st.integers(0, 39))
@check
def test_gate_that_is_no_number_gives_none(kernels: RowKernels, at: int) -> None:
    both, output = torch.ones(1, 80), torch.empty(1, 40)
    both[0, at] = torch.nan
    kernels.gate(0, 1, 40, both.data_ptr(), output.data_ptr())
    assert output.isnan().nonzero()[:, 1].tolist() == [at]


@dataclass(frozen=True)
class Case:
    """The shapes of one attention and its rows."""

    kv_heads: int
    group: int
    dim: int
    window: int  # 0: none
    dtype: torch.dtype
    norms: bool
    rotates: bool
    starts: tuple[int, ...]
    rows: tuple[int, ...]
    seed: int

    @property
    def heads(self) -> int:
        return self.kv_heads * self.group


@st.composite
def cases(draw: st.DrawFn, dtypes: st.SearchStrategy[torch.dtype] = FLOATS) -> Case:
    sequences = draw(st.integers(1, 3))
    return Case(
        kv_heads=draw(st.integers(1, 3)),
        group=draw(st.integers(1, 4)),
        dim=draw(st.sampled_from([2, 6, 8, 16, 20, 36, 64, 72, 80, 96, 128, 160, MOST_DIM])),
        window=draw(st.sampled_from([0, 0, 1, 5, 256, 300])),
        dtype=draw(dtypes),
        norms=draw(st.booleans()),
        rotates=draw(st.booleans()),
        starts=tuple(draw(st.sampled_from([1, 7, 255, 256, 257, 511, 700])) for _ in range(sequences)),
        rows=tuple(draw(st.integers(1, 4)) for _ in range(sequences)),
        seed=draw(SEEDS),
    )


class Inputs:
    """Random numbers of a case, and its description for the kernel."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(case.seed)
        self.case = case
        self.norms = [torch.rand(case.dim).add(0.5).to(case.dtype) for _ in range(2)]
        self.rope = torch.randn(max(case.starts) + 8, 2, 1, case.dim).clamp(-1, 1).to(case.dtype)
        self.slots = [
            torch.randn(2, case.kv_heads, start + rows + SLOT_ROOM, case.dim).to(case.dtype)
            for start, rows in zip(case.starts, case.rows, strict=True)
        ]
        self.tokens = torch.randn(sum(case.rows), case.heads + 2 * case.kv_heads, case.dim).to(case.dtype)
        self.places = [
            (slot, start + row)
            for slot, start, rows in zip(range(len(case.rows)), case.starts, case.rows, strict=True)
            for row in range(rows)
        ]
        query_norm, key_norm = (norm.data_ptr() if case.norms else None for norm in self.norms)
        rope = self.rope.data_ptr() if case.rotates else None
        sizes = (case.heads, case.kv_heads, case.dim, case.window)
        scale = case.dim**-0.5
        self.attention = Attention(query_norm, key_norm, rope, *sizes, scale, EPS, DTYPES[case.dtype])

    def attend(self, kernels: RowKernels, slots: list[Tensor], picked: list[int], threads: int) -> Tensor:
        """Returns what these rows attend to. The slots are written."""
        tokens = self.tokens[picked].contiguous()
        output, memory = guarded(torch.zeros(len(picked), self.case.heads, self.case.dim, dtype=tokens.dtype))
        chosen = [slots[self.places[row][0]] for row in picked]
        addresses = array("Q", [slot.data_ptr() for slot in chosen])
        capacities = array("q", [slot.shape[2] for slot in chosen])
        positions = array("q", [self.places[row][1] for row in picked])
        arrays = [each.buffer_info()[0] for each in (addresses, capacities, positions)]
        kernels.attend(
            ctypes.byref(self.attention), len(picked), tokens.data_ptr(), *arrays, output.data_ptr(), threads
        )
        assert_guards(memory)
        return output

    def expected(self, slots: list[Tensor]) -> Tensor:
        """Returns the same from torch in float64, and writes the slots."""
        heads, kv_heads = self.case.heads, self.case.kv_heads
        for token, (slot, position) in zip(self.tokens, self.places, strict=True):
            slots[slot][0, :, position] = self._prepared(token[heads : heads + kv_heads], position, 1)
            slots[slot][1, :, position] = token[heads + kv_heads :]
        outputs = []
        for token, (slot, position) in zip(self.tokens, self.places, strict=True):
            query = self._prepared(token[:heads], position, 0).double().unsqueeze(1)
            first = max(0, position + 1 - self.case.window) if self.case.window else 0
            keys, values = (
                slots[slot][:, :, first : position + 1].double().repeat_interleave(self.case.group, dim=1)
            )
            outputs.append(scaled_dot_product_attention(query, keys, values).squeeze(1))
        return torch.stack(outputs)

    def _prepared(self, heads: Tensor, position: int, norm: int) -> Tensor:
        if self.case.norms:
            normed: Tensor = rms_norm(heads.float(), (self.case.dim,), self.norms[norm].float(), EPS)
            heads = normed.to(heads.dtype)
        if not self.case.rotates:
            return heads
        cosines, sines = self.rope[position].float()
        swapped = heads.float().roll(self.case.dim // 2, dims=-1)
        rotated: Tensor = heads.float() * cosines + swapped * sines
        return rotated


@given(cases())
@check
def test_attention_is_that_of_torch(kernels: RowKernels, case: Case) -> None:
    inputs = Inputs(case)
    guards = [guarded(slot) for slot in inputs.slots]
    ours, theirs = [slot for slot, _ in guards], [slot.clone() for slot in inputs.slots]
    output = inputs.attend(kernels, ours, list(range(len(inputs.places))), threads=2)
    assert_near(output, inputs.expected(theirs).to(case.dtype))
    for our, their, (_, memory) in zip(ours, theirs, guards, strict=True):
        assert_near(our, their)
        assert_guards(memory)


@given(cases(), st.integers(1, 3))
@check
def test_row_has_the_same_bits_whatever_lies_beside_it(kernels: RowKernels, case: Case, threads: int) -> None:
    inputs = Inputs(case)
    rows = list(range(len(inputs.places)))
    together = inputs.attend(kernels, [slot.clone() for slot in inputs.slots], rows, threads)
    moved = [torch.cat((slot, slot[:, :, :3]), dim=2) for slot in inputs.slots]  # to larger slots elsewhere
    alone = torch.cat([inputs.attend(kernels, moved, [row], threads=1) for row in rows])
    assert torch.equal(together, alone)


@given(cases(st.just(torch.float32)))
@check
def test_attention_to_what_is_no_number_gives_none(kernels: RowKernels, case: Case) -> None:
    inputs = Inputs(case)
    inputs.slots[0][:, :, case.starts[0] - 1] = torch.nan
    output = inputs.attend(kernels, inputs.slots, list(range(len(inputs.places))), threads=1)
    sees = [
        slot == 0 and (not case.window or position - case.window < case.starts[0] - 1)
        for slot, position in inputs.places
    ]
    assert output.isnan().flatten(1).any(1).tolist() == sees
