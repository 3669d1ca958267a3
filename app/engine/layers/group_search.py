"""Rounds weights to groups of integers, with scale and zero of each group searched for the least error."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from app.engine.layers.grouped_weight import GROUP, GroupedWeight, in_steps

_CHUNK = 2**18  # weights that are rounded at a time
_LARGEST = 15
_SHRINKS = (1.0, 0.86)  # parts of the range of a group that are tried; the smaller one clips outliers
_REFITS = 2  # how often scale and zero are fitted to the integers, and the integers to them
_SMALLEST_SCALE = 1e-12  # the scale of a group of equal weights


def in_eight_bits(weight: Tensor) -> GroupedWeight:
    """Returns the weight in 8 bits; the largest value of each group is 127 steps."""
    groups = _groups(weight)
    scales = groups.abs().amax(-1, keepdim=True).div_(127).clamp_min_(_SMALLEST_SCALE).bfloat16().float()
    integers = (groups / scales).round_().clamp_(-128, 127).add_(128)
    return GroupedWeight(8, integers.to(torch.uint8).flatten(1), scales.squeeze(-1))


def in_four_bits(weight: Tensor) -> GroupedWeight:
    """Returns the weight in 4 bits, with the scale and zero of each group that give the least squared error.

    A search finds them: it tries several ranges and refits each to its integers.
    """
    rows = max(1, _CHUNK // weight.shape[1])
    return GroupedWeight.joined([_searched(some) for some in torch.split(weight, rows)])


def _groups(weight: Tensor) -> Tensor:
    """Returns the weight in float32, `[outputs, groups, 32]`, with zeros after the last input if need be."""
    inputs = weight.shape[1]
    padded = pad(weight.float(), (0, -inputs % GROUP)).contiguous()  # GPT-2 stores its weights transposed
    return padded.view(len(weight), -1, GROUP)


def _searched(weight: Tensor) -> GroupedWeight:
    outputs = len(weight)
    groups = _groups(weight).view(-1, GROUP).t().contiguous()  # sums over the first dimension are fast
    least, most = groups.amin(0), groups.amax(0)
    best_error = torch.full_like(least, torch.inf)
    best_scale, best_zero = torch.ones_like(least), torch.zeros_like(least)
    for shrink in _SHRINKS:
        scale = ((most - least) * (shrink / _LARGEST)).clamp_min_(_SMALLEST_SCALE)
        zero = (most + least) / 2 + scale / 2
        for _ in range(_REFITS + 1):
            scale = _representable(scale)
            zero = in_steps(_representable(zero), scale)
            integers = _rounded(groups, scale, zero)
            error = torch.addcmul(zero, integers, scale).sub_(groups).square_().sum(0)
            is_better = error < best_error
            best_error = torch.where(is_better, error, best_error)
            best_scale = torch.where(is_better, scale, best_scale)
            best_zero = torch.where(is_better, zero, best_zero)
            scale, zero = _fitted(groups, integers)
    integers = _rounded(groups, best_scale, best_zero).add_(8).to(torch.uint8).t().reshape(outputs, -1)
    return GroupedWeight(4, integers, best_scale.view(outputs, -1), best_zero.view(outputs, -1))


def _representable(values: Tensor) -> Tensor:
    return values.bfloat16().float()


def _rounded(groups: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Returns the integers from -8 to 7 that are nearest to the weights."""
    return (groups - zero).mul_(1 / scale).round_().clamp_(-8, 7)


def _fitted(groups: Tensor, integers: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the scale and zero of each column that fit its integers best, by least squares."""
    mean, middle = groups.mean(0), integers.mean(0)
    centred = integers - middle
    spread = centred.square().sum(0).clamp_min_(_SMALLEST_SCALE)
    scale = centred.mul_(groups).sum(0).div_(spread).clamp_min_(_SMALLEST_SCALE)
    return scale, mean - scale * middle
