"""Makes the layers whose weights are rounded to groups of 4 or 8 bits."""

from functools import partial

import torch
from torch import Tensor, nn

from app.engine.layers.group_search import in_eight_bits, in_four_bits
from app.engine.layers.grouped import GroupedLinear, has_grouped_products
from app.engine.layers.packed_linear import MakeLayer


def int4_layer(dtype: torch.dtype) -> MakeLayer | None:
    """Returns a layer with 4-bit weights for rows of `dtype`; None if torch has no such product here."""
    return partial(_four_bits, dtype=dtype) if has_grouped_products() else None


def grouped_int8_layer(dtype: torch.dtype) -> MakeLayer | None:
    """Returns a layer with 8-bit weights that leaves its rows in 16 bits; None as for `int4_layer`."""
    return partial(_eight_bits, dtype=dtype) if has_grouped_products() else None


def _four_bits(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    return GroupedLinear(in_four_bits(weight), bias, dtype)


def _eight_bits(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    return GroupedLinear(in_eight_bits(weight), bias, dtype)
