"""Linear layers with grouped weights by torch's products, where the compiled one is missing.

Few rows are multiplied by torch's 4-bit product, which reads the integers as they are. For many rows it is
slow, so blocks of the weights are converted to bfloat16 and multiplied by an ordinary product.
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from app.engine.layers.grouped_weight import CENTRE, GROUP, GroupedWeight
from app.engine.layers.packed_linear import computes_in_bfloat16

# Up to so many rows, torch's product of weights of these bits costs less than converting them. AMX makes the
# product of converted weights faster; AVX-512 makes torch's product faster.
_FEW_ROWS = {4: {"amx": 40, "avx512": 240, "other": 60}, 8: {"amx": 10, "avx512": 60, "other": 30}}
_CHUNK = 2**20  # weights that are converted at a time
_PACK_CHUNK = 2**22  # weights that are packed at a time
_LAYOUTS = (64, 32)  # outputs in a block of torch's layout with AVX-512, and with AVX2


class GroupedLinear(nn.Module):
    """`rows @ weight.T + bias`, computed in bfloat16 with sums in float32; the output is in `dtype`.

    An 8-bit integer is kept as two 4-bit integers, which double the product's inputs.
    """

    def __init__(self, weight: GroupedWeight, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self._block = _layout()
        self._outputs, self._inputs = weight.integers.shape
        self._parts = weight.bits // 4
        weight = _padded(weight, -self._outputs % self._block)
        self._packed = _packed(weight, self._block)
        self._scales_and_zeros = _scales_and_zeros(weight)
        self._bias = bias
        self._dtype = dtype
        self._few_rows = _few_rows(weight.bits)
        self._converted_dtype = torch.bfloat16 if computes_in_bfloat16() else torch.float32

    def forward(self, rows: Tensor) -> Tensor:
        flat = rows.reshape(-1, rows.shape[-1]).bfloat16()
        if flat.shape[1] < self._inputs:
            flat = pad(flat, (0, self._inputs - flat.shape[1]))
        output = self._product(flat) if len(flat) <= self._few_rows else self._converted_product(flat)
        output = output[:, : self._outputs].to(self._dtype).view(*rows.shape[:-1], self._outputs)
        return output if self._bias is None else output + self._bias

    def _product(self, rows: Tensor) -> Tensor:
        rows = rows if self._parts == 1 else torch.cat((rows, rows), dim=1)
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows.contiguous(), self._packed, GROUP, self._scales_and_zeros
        )
        return product

    def _converted_product(self, rows: Tensor) -> Tensor:
        rows = rows.to(self._converted_dtype)
        output = rows.new_empty(len(rows), self._scales_and_zeros.shape[1])
        start = 0
        for columns in self._converted():
            end = start + columns.shape[1]
            torch.mm(rows, columns, out=output[:, start:end])
            start = end
        return output

    def _converted(self) -> Iterator[Tensor]:
        """Yields the transposed weight, `[inputs, outputs]`, some blocks of outputs at a time."""
        groups, half = self._inputs // GROUP, self._block // 2
        packed = self._packed.view(-1, self._parts, groups, GROUP, half)
        # Of an 8-bit integer, the second half has its scale.
        factors = self._scales_and_zeros.view(self._parts, groups, -1, self._block, 2)[-1].transpose(0, 1)
        count = max(1, _CHUNK // (self._inputs * self._block))
        for some, factor in zip(torch.split(packed, count), torch.split(factors, count), strict=True):
            integers = some.new_empty(len(some), groups, GROUP, self._block, dtype=self._converted_dtype)
            integers[..., :half], integers[..., half:] = self._integers(some)
            scales, zeros = factor.to(self._converted_dtype).unsqueeze(2).unbind(-1)
            if self._parts == 1:
                torch.addcmul(zeros.contiguous(), integers, scales.contiguous(), out=integers)
            else:
                integers.mul_(scales.contiguous())
            yield integers.view(len(some), self._inputs, -1).transpose(0, 1).reshape(self._inputs, -1)

    def _integers(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the centred integers of the first half of each block's outputs, and of the second."""
        low, high = packed & 15, packed >> 4
        if self._parts == 1:
            first, second = low[:, 0], high[:, 0]
        else:
            first, second = (low[:, 0] << 4) | low[:, 1], (high[:, 0] << 4) | high[:, 1]
        centre = CENTRE if self._parts == 1 else 128
        # Unsigned integers wrap around, which the view as signed ones undoes.
        return (first - centre).view(torch.int8), (second - centre).view(torch.int8)


class ParallelLinears(nn.Module):
    """Several linear layers over the same rows. Their outputs are concatenated."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self._layers = nn.ModuleList(layers)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.cat([layer(rows) for layer in self._layers], dim=-1)


def has_torch_products() -> bool:
    """Returns whether torch has the 4-bit product, with weights in a layout that is known here."""
    try:
        return _layout() > 0
    except (RuntimeError, AttributeError):  # this build of torch lacks the operator
        return False


@cache
def _few_rows(bits: int) -> int:
    if torch.cpu.get_capabilities().get("amx_bf16", False):
        kind = "amx"
    else:
        kind = "avx512" if has_avx512_kernels() else "other"
    return _FEW_ROWS[bits][kind]


def has_avx512_kernels() -> bool:
    """Returns whether torch uses its kernels for AVX-512, of which the 4-bit product is one."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


@cache
def _layout() -> int:
    """Returns the number of outputs in a block of torch's layout; 0 if the layout is unknown."""
    with torch.inference_mode():
        integers = torch.randint(0, 16, (128, GROUP), dtype=torch.int32)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(integers, 1)
        for block in _LAYOUTS:
            view = packed.view(-1, GROUP, block // 2)
            unpacked = torch.cat((view & 15, view >> 4), dim=-1).transpose(1, 2).reshape(128, GROUP)
            if torch.equal(unpacked.int(), integers):
                return block
    return 0


def _padded(weight: GroupedWeight, outputs: int) -> GroupedWeight:
    if not outputs:
        return weight
    more = (0, 0, 0, outputs)
    zeros = None if weight.zeros is None else pad(weight.zeros, more)
    return GroupedWeight(weight.bits, pad(weight.integers, more), pad(weight.scales, more), zeros)


def _packed(weight: GroupedWeight, block: int) -> Tensor:
    """Returns the integers in torch's layout, packed some rows at a time, because torch takes 32-bit ones."""
    pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
    rows = max(1, _PACK_CHUNK // (weight.integers.shape[1] * block)) * block
    parts = [
        pack(_nibbles(some, weight.bits).int(), 1).view(-1) for some in torch.split(weight.integers, rows)
    ]
    return torch.cat(parts).view(len(weight.integers), -1)


def _nibbles(integers: Tensor, bits: int) -> Tensor:
    return integers if bits == 4 else torch.cat((integers >> 4, integers & 15), dim=1)


def _scales_and_zeros(weight: GroupedWeight) -> Tensor:
    """Returns `[groups, outputs, 2]` in bfloat16, as torch's product takes them."""
    scales = weight.scales
    if weight.bits == 4:
        zeros = torch.zeros_like(scales) if weight.zeros is None else weight.zeros
    else:  # high nibbles are centred at 8; low ones are not, so that their zero adds what torch subtracts
        scales, zeros = torch.cat((16 * scales, scales), dim=1), torch.cat((0 * scales, 8 * scales), dim=1)
    return torch.stack((scales, zeros), dim=-1).transpose(0, 1).bfloat16().contiguous()
