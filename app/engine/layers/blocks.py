"""Weights in the blocks of a GGUF file, unchanged, and layers that convert them while they compute.

The layers are slow. They keep a model's own computation for the self-check, until its layers are packed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor, nn
from torch.nn.functional import linear

_CHUNK = 2**20  # weights that are converted at a time


@dataclass(frozen=True, slots=True)
class BlockWeight:
    """A matrix `[outputs, inputs]` in blocks of one kind. `data` has a row of bytes for each output."""

    kind: GGMLQuantizationType
    data: Tensor
    inputs: int

    @property
    def outputs(self) -> int:
        return len(self.data)

    @property
    def count(self) -> int:
        return self.outputs * self.inputs

    def rows(self, ids: Tensor) -> Tensor:
        """Returns those rows in float32, `[len(ids), inputs]`."""
        return _values(self.data[ids], self.kind)

    def chunks(self) -> Iterator[Tensor]:
        """Yields the whole matrix in float32, some rows at a time."""
        for part in torch.split(self.data, max(1, _CHUNK // self.inputs)):
            yield _values(part, self.kind)

    def values(self, dtype: torch.dtype) -> Tensor:
        """Returns the whole matrix in `dtype`."""
        made = torch.empty(self.outputs, self.inputs, dtype=dtype)
        start = 0
        for chunk in self.chunks():
            made[start : start + len(chunk)] = chunk
            start += len(chunk)
        return made


@dataclass(frozen=True, slots=True)
class BlockExperts:
    """The matrices of `count` experts, which transformers' code takes from it one by one, in `dtype`.

    Each of the `parts` has some of the outputs of all experts, one expert after the other. An expert has the
    outputs of the first part before those of the next; if they alternate, its first output of each part is
    before the second ones. transformers may have the matrices transposed.
    """

    parts: tuple[BlockWeight, ...]
    count: int
    dtype: torch.dtype
    alternate: bool = False
    are_transposed: bool = False

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int | Tensor) -> Tensor:
        """Returns the matrix of one expert as transformers stores it."""
        values = self.joined([part.values(self.dtype) for part in self.parts_of(int(index))])
        return values.t() if self.are_transposed else values

    def values(self) -> Tensor:
        """Returns the matrices of all experts."""
        return torch.stack([self[index] for index in range(self.count)])

    def parts_of(self, index: int) -> list[BlockWeight]:
        """Returns the parts of one expert's matrix."""
        return [replace(part, data=part.data.chunk(self.count)[index]) for part in self.parts]

    def joined(self, parts: Sequence[Tensor], dim: int = 0) -> Tensor:
        """Returns the outputs of all parts, which lie along `dim`, in their order."""
        if self.alternate:
            return torch.stack(list(parts), dim + 1).flatten(dim, dim + 1)
        return torch.cat(list(parts), dim)

    def separated(self, outputs: Tensor) -> Sequence[Tensor]:
        """Returns the columns of each part, of equal numbers."""
        if self.alternate:
            return outputs.view(len(outputs), -1, len(self.parts)).unbind(2)
        return outputs.chunk(len(self.parts), 1)


class BlockLinear(nn.Module):
    """`rows @ weight.T + bias`, computed in the dtype of the rows."""

    def __init__(self, stored: BlockWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.stored = stored
        self.in_features, self.out_features = stored.inputs, stored.outputs
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        return linear(rows, self.stored.values(rows.dtype), self.bias)


class BlockEmbedding(nn.Module):
    """An embedding that converts only the rows that it returns, and multiplies them by `scale`."""

    def __init__(self, stored: BlockWeight, dtype: torch.dtype, scale: float = 1.0) -> None:
        super().__init__()
        self.stored = stored
        self.weight = stored.data  # the bytes
        self._dtype = dtype
        self._scale = scale

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.stored.rows(ids.flatten().cpu()).to(self._dtype)
        if self._scale != 1.0:
            rows = rows * torch.tensor(self._scale, dtype=self._dtype)
        return rows.view(*ids.shape, -1).to(ids.device)


def matrices_in_blocks(model: nn.Module) -> Iterator[BlockWeight]:
    """Yields the matrices of linear layers and experts that are in blocks."""
    for module in model.modules():
        if isinstance(module, BlockLinear):
            yield module.stored
        for value in vars(module).values():
            if isinstance(value, BlockExperts):
                yield from value.parts


def block_parameters(model: nn.Module) -> int:
    """Returns the number of weights in blocks. A matrix that two layers share counts once."""
    embedded = [module.stored for module in model.modules() if isinstance(module, BlockEmbedding)]
    stored = [*matrices_in_blocks(model), *embedded]
    return sum({weight.data.data_ptr(): weight.count for weight in stored}.values())


def _values(data: Tensor, kind: GGMLQuantizationType) -> Tensor:
    return torch.from_numpy(dequantize(data.contiguous().numpy(), kind))
