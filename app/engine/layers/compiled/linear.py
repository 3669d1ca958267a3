"""Layers whose grouped weights are multiplied by the compiled product, for few rows and for many."""

import torch
from torch import Tensor, nn

from app.engine.layers.compiled.product import GroupedProduct
from app.engine.layers.compiled.tiles import TiledWeights, Tiles
from app.engine.layers.grouped_weight import GROUP, GroupedWeight


class _Compiled(nn.Module):
    """The rows are rounded to 15 bits in groups of 32; the output is in `dtype`."""

    def __init__(
        self, weights: TiledWeights, bias: Tensor | None, dtype: torch.dtype, product: GroupedProduct
    ) -> None:
        super().__init__()
        self._weights = weights
        self._bias = None if bias is None else bias.float().contiguous()
        self._dtype = dtype
        # The product takes no float16.
        self._computed = torch.float32 if dtype == torch.float16 else dtype
        self._product = product

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, without biases."""
        return self._weights.nbytes

    def _multiplied(self, rows: Tensor, counts: Tensor | None = None) -> Tensor:
        if not 0 <= self._weights.inputs - rows.shape[-1] < GROUP:
            raise ValueError(
                f"rows of {rows.shape[-1]} numbers for a layer with {self._weights.inputs} inputs"
            )
        rows = rows.to(self._computed).contiguous()
        output = rows.new_empty(*rows.shape[:-1], self._weights.outputs)
        self._product(self._weights, self._bias, rows, output, counts)
        return output.to(self._dtype)


class CompiledLinear(_Compiled):
    """`rows @ weight.T + bias`."""

    def __init__(
        self, weight: GroupedWeight, bias: Tensor | None, dtype: torch.dtype, product: GroupedProduct
    ) -> None:
        super().__init__(TiledWeights.of([Tiles.of(weight)]), bias, dtype, product)

    def forward(self, rows: Tensor) -> Tensor:
        return self._multiplied(rows)


class CompiledExperts(_Compiled):
    """The same for each expert's rows, in one call of the product. `bias` is `[experts, outputs]`."""

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Returns the outputs of `rows` `[n, inputs]`.

        The first `counts[0]` rows are those of the first expert, and so on. `counts` is `[experts]` in int64.
        """
        if len(counts) != self._weights.count or int(counts.sum()) != len(rows):
            raise ValueError(
                f"{len(rows)} rows of {len(counts)} experts, but there are {self._weights.count}"
            )
        return self._multiplied(rows, counts.contiguous())
