"""Makes the layers whose weights are integers in groups, by the compiled product or by torch's."""

from functools import partial

import torch
from torch import Tensor, nn

from app.engine.layers.compiled.linear import CompiledLinear
from app.engine.layers.compiled.product import grouped_product
from app.engine.layers.group_search import in_eight_bits, in_four_bits
from app.engine.layers.grouped import GroupedLinear, has_avx512_kernels, has_torch_products
from app.engine.layers.grouped_weight import GroupedWeight
from app.engine.layers.packed_linear import MakeLayer


def grouped_layer(weight: GroupedWeight, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    """Returns a layer for rows of `dtype`. It needs `has_grouped_products`."""
    product = grouped_product()
    if product is None:
        return GroupedLinear(weight, bias, dtype)
    return CompiledLinear(weight, bias, dtype, product)


def has_grouped_products() -> bool:
    """Returns whether this processor has a product of rows and grouped weights."""
    return grouped_product() is not None or has_torch_products()


def has_fast_grouped_products() -> bool:
    """Returns whether several sequences are as fast with grouped 4-bit weights as with 16 bits."""
    return grouped_product() is not None or has_avx512_kernels()


def int4_layer(dtype: torch.dtype) -> MakeLayer | None:
    """Returns a layer with 4-bit weights for rows of `dtype`; None if there is no such product here."""
    return partial(_four_bits, dtype=dtype) if has_grouped_products() else None


def grouped_int8_layer(dtype: torch.dtype) -> MakeLayer | None:
    """Returns a layer with 8-bit weights in groups for rows of `dtype`; None as for `int4_layer`."""
    return partial(_eight_bits, dtype=dtype) if has_grouped_products() else None


def _four_bits(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    return grouped_layer(in_four_bits(weight), bias, dtype)


def _eight_bits(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    return grouped_layer(in_eight_bits(weight), bias, dtype)
