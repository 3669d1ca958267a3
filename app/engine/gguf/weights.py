"""Takes one tensor of a GGUF file into the form that a layer of the model needs."""

from dataclasses import dataclass

import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor, nn

from app.core.errors import ModelUnsupported
from app.engine.gguf.header import GGUFTensor
from app.engine.gguf.stored_form import StoredForm
from app.engine.layers.blocks import BlockLinear, BlockWeight
from app.engine.layers.packed_linear import ordinary_linear

_FLOATS = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}


class ReorderedInput(nn.Module):
    """A layer whose weights have their columns in another order: column `i` belongs to input `order[i]`."""

    def __init__(self, linear: nn.Module, order: Tensor) -> None:
        super().__init__()
        self.linear = linear
        self._order = nn.Buffer(order, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        outputs: Tensor = self.linear(rows[..., self._order])
        return outputs


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight under its name in transformers. `dtype` is the one in which the model computes."""

    name: str
    tensor: GGUFTensor
    form: StoredForm
    dtype: torch.dtype

    @property
    def is_quantised(self) -> bool:
        return self.tensor.kind not in _FLOATS

    def values(self) -> Tensor:
        """Returns the weight in `dtype`, in the file's shape.

        Raises ModelUnsupported if it is a vector in blocks, which no converter writes.
        """
        if self.is_quantised:
            made = self._blocks(self._rows()).values(self.dtype)
        else:
            made = self._rows().view(_FLOATS[self.tensor.kind])
        made = self.form.original(self.name, made.view(self.tensor.shape))
        order = self.form.column_order(self.name)
        return (made if order is None else made[:, order]).to(self.dtype)

    def in_blocks(self) -> BlockWeight:
        """Returns the matrix in its blocks. One with more dimensions has all its rows one after the other."""
        return self._blocks(self._rows())

    def linear(self, bias: Tensor | None) -> nn.Module:
        """Returns the matrix as a layer, in its blocks if it has any."""
        if not self.is_quantised:
            return ordinary_linear(self.values(), bias)
        layer = BlockLinear(self.in_blocks(), bias)
        order = self.form.column_order(self.name)
        return layer if order is None else ReorderedInput(layer, order.argsort())

    def _blocks(self, rows: Tensor) -> BlockWeight:
        if len(self.tensor.shape) < 2:
            raise ModelUnsupported(f"{self.tensor.name[:80]} is quantised, though it is not a matrix")
        return BlockWeight(self.tensor.kind, rows, self.tensor.shape[-1])

    def _rows(self) -> Tensor:
        """Returns the bytes of the rows in transformers' order, still mapped if that is the file's."""
        data = self.tensor.data
        is_vector = len(self.tensor.shape) == 1 and not self.is_quantised
        width = _FLOATS[self.tensor.kind].itemsize if is_vector else data.shape[-1]
        rows = torch.from_numpy(data.reshape(-1, width))
        order = self.form.row_order(self.name)
        return rows if order is None else rows[order]
